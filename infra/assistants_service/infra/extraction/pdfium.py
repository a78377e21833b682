"""Load pdfium, which reads PDF files for kreuzberg, from a folder that no other user can write to.

kreuzberg carries pdfium as bytes. At the first PDF it unpacks them into the folder `kreuzberg-pdfium` of the temporary
kreuzberg contains pdfium as bytes. At the first PDF it unpacks them into the folder `kreuzberg-pdfium` of the temporary
folder, unless a file of that name and about that size exists, which it then loads
(crates/kreuzberg/src/pdf/bundled.rs). In a shared temporary folder that may be another user's code. So it gets a
private folder, which is deleted as soon as pdfium is loaded.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

_PREFIX: Final = "assistants-reader-"
_LEFT_BEHIND: Final = 3600.0  # seconds after which a folder must be left over from a killed process
# An empty page.
_BLANK: Final = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>"
)


@functools.cache
def trouble() -> str:
    """Load pdfium, once per process. Returns why it cannot be loaded, or an empty text."""
    import kreuzberg

    config = kreuzberg.ExtractionConfig(use_cache=False, disable_ocr=True)  # type: ignore[call-arg] # missing in its stub
    shared = tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
            _remove_left_over(Path(shared), owner=Path(folder).stat().st_uid)
            # Permanently: from then on nothing finds a temporary folder. Windows calls it TMP.
            os.environ["TMPDIR"] = os.environ["TMP"] = folder
            kreuzberg.extract_bytes_sync(_BLANK, "application/pdf", config)
    except (OSError, kreuzberg.KreuzbergError) as error:
        return f"pdfium cannot be loaded from a folder in {shared}, which must be writable and not noexec: {error}"
    return ""


def _remove_left_over(shared: Path, owner: int) -> None:
    for folder in shared.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == owner and found.st_mtime < time.time() - _LEFT_BEHIND:
                shutil.rmtree(folder)
