from __future__ import annotations

import pathlib

import pytest

from tests.backends import llama_files, tiny


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A Mixtral of 2 layers × 4 experts, top-2, in F32."""
    return llama_files.write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def other_gguf(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A Qwen3 of 3 layers × 8 experts, top-3, with a chat template."""

    def with_template(writer):
        writer.add_chat_template(tiny.CHAT_TEMPLATE)

    return llama_files.write_gguf(
        tmp_path_factory.mktemp("gguf") / "other.gguf", llama_files.QWEN3, change=with_template
    )


@pytest.fixture(scope="session")
def hf_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A Qwen3 of 3 layers, of which 2 have 8 experts, top-3, in 4 bits."""
    return tiny.write_model(
        tmp_path_factory.mktemp("hf") / "qwen3", tiny.QWEN3, bits=4, chat_template=tiny.CHAT_TEMPLATE
    )
