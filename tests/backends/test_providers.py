from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backends.conftest import generation, whole
from backends.stub_server import stub_server
from backends.test_ollama import routes
from dpc_jupyter.backends.base import Backend
from dpc_jupyter.backends.providers import backends_from, default_backends
from dpc_jupyter.backends.registry import open_registry
from dpc_jupyter.errors import ConfigError


async def test_a_file_makes_its_backends_in_order(tmp_path: Path, closing: list[Backend]) -> None:
    config = {
        "_comment": "kept for people",
        "providers": [
            {"alias": "ollama_local", "type": "ollama", "host": "http://127.0.0.1:11434", "slots": 2},
            {"alias": "vllm", "type": "openai_compatible", "base_url": "http://gpu:8000/v1", "_note": "room 3"},
            {"alias": "embedded", "type": "llama_cpp", "model": "smollm2:135m"},
            {"alias": "mine", "type": "llama_cpp", "model": "/data/my-model.gguf"},
            {"alias": "all", "type": "llama_cpp"},
        ],
    }
    found = backends_from(config, tmp_path)
    closing.extend(found)
    assert [(b.alias, b.type, b.slots) for b in found] == [
        ("ollama_local", "ollama", 2),
        ("vllm", "openai_compatible", 4),
        ("embedded", "llama_cpp", 2),
        ("mine", "llama_cpp", 2),
        ("all", "llama_cpp", 2),
    ]
    assert found[3]._model.name == "my-model"  # type: ignore[attr-defined]
    assert found[3]._model.path == Path("/data/my-model.gguf")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("x", '"providers" must be a list'),
        (["x"], "entry 1 must be an object"),
        ([{"alias": "a", "type": "gpt"}], r"entry 1 \('a'\): \"type\" must be \"ollama\", \"openai_compatible\" or"),
        ([{"type": "ollama"}], "entry 1: .*missing required field `alias`"),
        ([{"alias": "a", "type": "ollama", "hots": "x"}], r"entry 1 \('a'\): .*unknown field `hots`.*remove"),
        ([{"alias": "a", "type": "ollama", "slots": 0}], r"\('a'\): .*>= 1.*slots"),
        ([{"alias": "a", "type": "ollama"}, {"alias": "a", "type": "llama_cpp"}], "entry 2: 'a' is taken"),
        ([{"alias": "a", "type": "openai_compatible"}], r"entry 1 \('a'\): .*needs a base_url"),
        ([{"alias": "a", "type": "llama_cpp", "name": "x"}], r"entry 1 \('a'\): .*name but no model"),
    ],
)
def test_a_wrong_file_is_refused_by_entry_and_fix(
    entries: Any, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"^providers\.json: ") as error:
        backends_from({"providers": entries}, tmp_path)
    assert re.search(sentence, str(error.value)), str(error.value)
    assert str(error.value).count("providers.json") == 1


async def test_one_model_is_served_twice_under_two_names(models_folder: Path) -> None:
    config = {
        "providers": [
            {"alias": "embedded", "type": "llama_cpp", "model": "smollm2:135m", "context_window": 512},
            {"alias": "reserved", "type": "llama_cpp", "model": "smollm2:135m", "name": "smollm2-reserved"},
        ]
    }
    registry = open_registry(config, models_folder)
    assert [info.name for _, info in await registry.offers()] == ["smollm2:135m", "smollm2-reserved"]
    backend, info = await registry.resolve("smollm2-reserved")
    assert backend.alias == "reserved"
    assert (await whole(backend.stream(generation(model=info.name, max_tokens=2)))).end.response_tokens == 2
    await registry.close()


async def test_without_a_file_ollama_is_taken_if_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closing: list[Backend]
) -> None:
    async with stub_server(routes()) as stub:
        monkeypatch.setenv("OLLAMA_HOST", stub.url)
        closing.extend(await default_backends(tmp_path))
    assert [backend.type for backend in closing] == ["ollama"]


async def test_without_a_file_and_ollama_the_embedded_engine_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead_url: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", dead_url)
    assert [backend.type for backend in await default_backends(tmp_path)] == ["llama_cpp"]


async def test_what_listens_on_ollamas_port_but_is_not_ollama_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stub_server({}) as stub:
        monkeypatch.setenv("OLLAMA_HOST", stub.url)
        assert [backend.type for backend in await default_backends(tmp_path)] == ["llama_cpp"]


def test_a_kernel_that_only_asks_imports_no_engine_client() -> None:
    clients = "{'httpx', 'ollama', 'xllamacpp', 'pydantic'}"
    code = f"import sys, dpc_jupyter.backends.registry; print({clients} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
