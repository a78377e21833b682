"""Whether the passage that answers a question is found, by the offline vectors and by a plain count of words.

Search itself is tested where it is; this is about what it is given: texts, chunks and vectors.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import documents
import numpy as np
from numpy.typing import NDArray

from core.ports import Chunking
from infra.embeddings import OfflineEmbeddings
from infra.extraction.pool import ReaderPool

TOP = 5


async def test_the_passage_is_among_the_first_five(tmp_path: Path) -> None:
    readers, model, asked = ReaderPool(processes=2), OfflineEmbeddings(), documents.questions()
    files = documents.build(tmp_path)
    passages = [
        (path.name, chunk.text) for path in files for chunk in await readers.chunks(path, path.name, Chunking())
    ]
    vectors = await model.embed([text for _, text in passages])
    by_vector = await model.embed([question.question for question in asked]) @ vectors.T
    by_word = np.array([bm25(question.question, [text for _, text in passages]) for question in asked])

    found = {}
    for name, scores in (("vector", by_vector), ("word", by_word), ("both", level(by_vector) + level(by_word))):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
        hits = [
            any(documents.answers(q, *passages[place]) for place in row) for q, row in zip(asked, best, strict=True)
        ]
        found[name] = sum(hits)
    print({"questions": len(asked), "passages": len(passages), **found})
    assert len(asked) >= 36
    assert found["both"] >= 0.9 * len(asked)
    assert found["both"] >= max(found["vector"], found["word"])
    await readers.close()
    await model.close()


def level(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of each question, from 0 to 1."""
    return (scores - scores.min(axis=1, keepdims=True)) / np.ptp(scores, axis=1, keepdims=True)


def bm25(question: str, passages: list[str]) -> list[float]:
    counts = [Counter(words(text)) for text in passages]
    mean = sum(count.total() for count in counts) / len(counts)
    scores = [0.0] * len(passages)
    for word in set(words(question)):
        holding = sum(word in count for count in counts)
        weight = math.log(1 + (len(counts) - holding + 0.5) / (holding + 0.5))
        for place, count in enumerate(counts):
            scores[place] += weight * count[word] * 2.2 / (count[word] + 0.3 + 0.9 * count.total() / mean)
    return scores


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
