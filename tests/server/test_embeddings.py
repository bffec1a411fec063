"""/v1/embeddings: dimensions, poolings, and as many inputs as OpenAI takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.server.harness import Server


def vectors(server: Server, **body: Any) -> np.ndarray[Any, Any]:
    status, answer = server.post("/v1/embeddings", body)
    assert status == 200, answer
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return np.array([each["embedding"] for each in answer["data"]])


def test_dimensions_cut_and_normalise_again(tiny: Server) -> None:
    whole, cut = vectors(tiny, input="the sun"), vectors(tiny, input="the sun", dimensions=16)
    np.testing.assert_allclose(cut[0], whole[0, :16] / np.linalg.norm(whole[0, :16]), atol=1e-6)
    plain = vectors(tiny, input="the sun", dimensions=16, normalize=False)
    assert np.linalg.norm(plain) != pytest.approx(1)
    np.testing.assert_array_equal(plain, vectors(tiny, input="the sun", normalize=False)[:, :16])
    np.testing.assert_allclose(tiny.post("/api/embed", {"input": "the sun", "dimensions": 16})[1]["embeddings"], cut)


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_request_may_choose_the_pooling(tiny: Server, pooling: str) -> None:
    answer = tiny.post("/v1/embeddings", {"input": "the sun", "pooling": pooling})[1]
    assert answer["pooling"] == pooling
    first = vectors(tiny, input="x sun", pooling=pooling)[0] - vectors(tiny, input="x", pooling="last")[0]
    assert (np.abs(first).max() < 1e-6) == (pooling == "cls")


def test_2048_inputs_and_not_one_more(tiny: Server) -> None:
    texts = [f"{number}" for number in range(2048)]
    made = vectors(tiny, input=texts, dimensions=4)
    assert made.shape == (2048, 4)
    np.testing.assert_allclose(made[2047], vectors(tiny, input="2047", dimensions=4)[0], atol=1e-6)
    status, answer = tiny.post("/v1/embeddings", {"input": [*texts, "one"]})
    assert status == 400 and answer["error"]["param"] == "input" and "2048" in answer["error"]["message"]


@pytest.mark.parametrize("dimensions", [0, 65])
def test_dimensions_that_the_model_does_not_have(tiny: Server, dimensions: int) -> None:
    status, answer = tiny.post("/v1/embeddings", {"input": "a", "dimensions": dimensions})
    assert status == 400 and "dimensions" in answer["error"]["message"]
