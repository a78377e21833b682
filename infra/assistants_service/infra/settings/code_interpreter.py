"""Settings of code_interpreter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class CodeInterpreterSettings(BaseModel):
    """Whether and how the worker executes code of models."""

    code_interpreter: Literal["auto", "local", "azure", "off"] = Field(
        "auto",
        description=(
            "where the worker executes Python of code_interpreter: local (confined processes of this machine, Linux"
            " only), azure (Azure Container Apps dynamic sessions, in CODE_INTERPRETER_POOL) or off; auto: local if a"
            " self-test at start shows that this machine can confine them, otherwise off"
        ),
    )
    code_interpreter_pool: str | None = Field(
        None,
        description=(
            "management endpoint of the session pool for CODE_INTERPRETER=azure (managed identity):"
            " https://REGION.dynamicsessions.io/subscriptions/.../sessionPools/NAME"
        ),
    )
    code_interpreter_timeout: Annotated[float, Field(gt=0)] = Field(
        60, description="seconds that one call of code_interpreter may take"
    )
    code_interpreter_processes: Annotated[int, Field(ge=1)] = Field(
        4, description="Python interpreters that one worker keeps at once, one per thread that uses code_interpreter"
    )
    code_interpreter_memory_mb: Annotated[int, Field(ge=256)] = Field(
        2048, description="MiB of memory that one Python interpreter may use"
    )
    code_interpreter_keep_days: Annotated[int, Field(ge=0, le=3650)] = Field(
        0,
        description=(
            "days that files which code_interpreter created for users are kept after their thread is deleted; 0: they"
            " are deleted with it"
        ),
    )
