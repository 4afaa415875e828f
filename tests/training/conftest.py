from pathlib import Path

import pytest

from gpt2lab.corpus.build import shard
from gpt2lab.corpus.document import Document
from small_runs import sentence


@pytest.fixture(scope="session")
def shards(tmp_path_factory, small_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shards"
    shard([Document(sentence(i)) for i in range(400)], small_tokenizer, folder, held_out=0.1)
    return folder
