"""Pages that are made from the code or from results still say what those say."""

import importlib.util
from types import ModuleType

from tests import ROOT


def script(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_table_of_the_study_is_made_from_the_committed_results() -> None:
    write_study = script("write_study")
    for page in write_study.PAGES:
        text = page.read_text(encoding="utf-8")
        assert write_study.BLOCK.findall(text)
        assert write_study.written(text) == text


def test_the_configs_page_has_every_key_of_the_schema() -> None:
    tabulate_config = script("tabulate_config")
    assert tabulate_config.PAGE.read_text(encoding="utf-8") == tabulate_config.page()
