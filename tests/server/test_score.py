"""/v1/score and /v1/rerank against the embeddings of the same texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.server.harness import Server

TEXTS = ["the rate of ions", "a train at noon", "in short"]


def cosines(server: Server, query: str, texts: list[str], **more: Any) -> list[float]:
    status, answer = server.post("/v1/embeddings", {"input": [query, *texts], **more})
    assert status == 200, answer
    vectors = np.array([each["embedding"] for each in answer["data"]])
    found: list[float] = (vectors[1:] @ vectors[0]).tolist()
    return found


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
@pytest.mark.parametrize("more", [{}, {"pooling": "last"}])
def test_scores_are_cosines(tiny: Server, path: str, more: dict[str, Any]) -> None:
    expected = cosines(tiny, "noise", TEXTS, **more)
    status, answer = tiny.post(path, {"text_1": "noise", "text_2": TEXTS, **more})
    assert status == 200 and [each["index"] for each in answer["data"]] == [0, 1, 2]
    np.testing.assert_allclose([each["score"] for each in answer["data"]], expected, atol=1e-6)
    pairs = tiny.post(path, {"text_1": TEXTS, "text_2": TEXTS[::-1], **more})[1]["data"]
    assert pairs[1]["score"] == pytest.approx(1) and pairs[0]["score"] == pytest.approx(pairs[2]["score"])
    one = tiny.post(path, {"text_1": "noise", "text_2": TEXTS[0], **more})[1]["data"]
    assert len(one) == 1 and one[0]["score"] == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_the_most_similar_document_comes_first(tiny: Server, path: str) -> None:
    expected = cosines(tiny, "noise", TEXTS)
    order = sorted(range(3), key=lambda index: -expected[index])
    documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]
    status, answer = tiny.post(path, {"query": "noise", "documents": documents})
    assert status == 200 and [each["index"] for each in answer["results"]] == order
    assert [each["document"]["text"] for each in answer["results"]] == [TEXTS[index] for index in order]
    scores = [each["relevance_score"] for each in answer["results"]]
    np.testing.assert_allclose(scores, [expected[index] for index in order], atol=1e-6)
    some = tiny.post(path, {"query": "noise", "documents": TEXTS, "top_n": 2, "return_documents": False})[1]["results"]
    assert [each["index"] for each in some] == order[:2] and some[0]["document"] is None


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1"),
        ("/v1/score", {"text_1": "a", "text_2": []}, "text_2"),
        ("/v1/score", {"text_1": "a", "text_2": ""}, "text_2"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["a", ""]}, "text_2[1]"),
        ("/v1/score", {"text_1": "a", "text_2": ["b"] * 2048}, "text_2"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["a", 3]}, "documents[1]"),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": ["b", "b" * 2000]}, "documents[1]"),
        ("/v1/rerank", {"query": "", "documents": ["b"]}, "query"),
    ],
)
def test_bad_requests_name_the_field(tiny: Server, path: str, body: dict[str, Any], field: str) -> None:
    status, answer = tiny.post(path, body)
    assert status == 400 and answer["error"]["param"] == field, answer
