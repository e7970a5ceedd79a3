# SPDX-License-Identifier: Apache-2.0
"""Every block of README, docs and the bundles' pages runs as it stands: Python, commands and configs.

Python blocks run page by page, in order, in one namespace, in an empty folder. A page that needs parts which a reader
has (``network``, ``evaluator``, ...) finds them in ``parts``. Pages with tests of their own, which also look at what
their blocks do, are named in ``RUN_BY``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator

from tests.docs.pages import ROOT, Block, blocks_of, pages
from tests.readme_parts import BEFORE, bright_organ, engine_parts, network, write_files

#: pages whose blocks another test runs, with the parts that they need: the test is named
RUN_BY = {
    "README.md": "tests/test_readme.py::ran",
    "docs/attacked_model.md": "tests/test_attacked_model_docs.py::test_every_block_says_what_the_page_says",
    "docs/dicom.md": "tests/data/dicom/test_dicom_docs.py::test_every_block_says_what_the_page_says",
    "docs/extending.md": "tests/test_extending_docs.py::page",
    "docs/audit_targets_exported.md": (
        "tests/audit/targets/test_exported.py::test_the_code_of_the_page_runs_as_it_stands"
    ),
    "docs/audit_targets_nnunet.md": "tests/audit/targets/test_nnunet.py::test_page_runs",
}
#: pages whose blocks name files of the repository
IN_REPOSITORY = ("docs/audit.md", "docs/audit_targets.md", "bundles/")
#: blocks that no test runs, at most; the reasons stand on the pages
NOT_RUN_AT_MOST = 12
#: words of a command that a reader replaces, with a value that can be parsed
PLACEHOLDERS = {"...": "a=1", "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT": "0/2", "N": "1", "K/N": "0/2"}
WITH_PYTHON = [page for page in pages() if any(block.language == "python" for block in blocks_of(page))]


class Parsed(Exception):
    """A command has read its arguments."""


def parts() -> dict[str, Any]:
    """What a reader of the pages has: a network, an image in HU, its label, an evaluator."""
    image, label = bright_organ()
    trainer_parts, evaluator_parts = engine_parts()
    names: dict[str, Any] = {"network": network(), "image": image, "label": label, "__name__": "page"}
    names |= {"trainer_parts": trainer_parts, "evaluator_parts": evaluator_parts}
    names["evaluator"] = SupervisedEvaluator(**evaluator_parts)
    exec(compile(BEFORE, "before", "exec"), names)
    return names


def run(block: Block, page: str, names: dict[str, Any]) -> None:
    """Run a block; where the text below it names an error, that error must come."""
    expected = re.match(r"(\w+(?:Error|Warning|Exception)): (.*)", block.said or "", re.DOTALL)
    code = compile(block.code, page, "exec")
    if expected is None or expected.group(1).endswith("Warning"):
        exec(code, names)  # the page is ours
        return
    with pytest.raises(Exception) as caught:  # noqa: B017
        exec(code, names)
    assert type(caught.value).__name__ == expected.group(1)
    assert " ".join(str(caught.value).split()) == " ".join(expected.group(2).split())


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in RUN_BY])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    if page.startswith(IN_REPOSITORY):
        (tmp_path / "bundles").symlink_to(ROOT / "bundles", target_is_directory=True)
    names = parts()
    for block in blocks_of(page):
        if block.language == "python" and block.reason is None:
            torch.manual_seed(0)
            run(block, page, names)
    assert torch.is_grad_enabled()


def test_pages_that_other_tests_run_are_run_by_them() -> None:
    assert set(RUN_BY) <= set(WITH_PYTHON)
    for page, test in RUN_BY.items():
        file, name = test.split("::")
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), test
        assert Path(page).name in source, f"{file} does not name {page}"


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    reasons = [(page, block.reason) for page in pages() for block in blocks_of(page) if block.reason is not None]
    assert len(reasons) <= NOT_RUN_AT_MOST, reasons
    assert all(len(str(reason).split()) >= 3 for _, reason in reasons), reasons


def commands() -> list[tuple[str, str]]:
    """Every command of the pages that starts a module of Python, on one line, with its page."""
    found = []
    for page in pages():
        for block in blocks_of(page):
            if block.language == "bash" and block.reason is None:
                lines = block.code.replace("\\\n", " ").splitlines()
                found += [(page, line) for line in lines if re.search(r"(^|\s)-m [a-z_.]+", line)]
    return found


def test_bundle_options_are_those_of_the_configs_or_of_monai() -> None:
    with pytest.raises(AssertionError, match="no_such_key"):
        check_bundle(["run", "--config_file", "bundles/robustness_audit/configs/audit.yaml", "--no_such_key", "1"])


def check_bundle(words: list[str]) -> None:
    """The files of a ``monai.bundle`` command exist, and what it overrides is there."""
    given = dict(zip(words[1::2], words[2::2], strict=False)) if words[1].startswith("--") else {}
    if not given:
        given = dict(zip(words[2::2], words[3::2], strict=True))
    for option in ("--meta_file", "--filepath"):
        if words[0].startswith("verify") and option in given:
            assert (ROOT / given[option]).exists(), given[option]
    files = given.get("--config_file", "[]")
    files = ast.literal_eval(files) if files.startswith("[") else [files]
    there = [ROOT / file for file in files if file.startswith("bundles/")]
    for file in there:
        assert file.exists(), file
    if words[0] == "run" and there and len(there) == len(files):
        parser = ConfigParser()
        parser.read_config([str(file) for file in there])
        own = {"config_file", "bundle_root", "meta_file", "logging_file", "workflow_type"}
        for option in given:
            key = option.removeprefix("--")
            assert key in own or key.split("#")[0] in parser.config, f"{key} is no key of {files}"


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_are_understood(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command, comments=True)]
    start = words.index("-m")
    name, arguments = words[start + 1], words[start + 2 :]
    if name == "monai.bundle" or (name == "monai_adversarial" and arguments[0] == "run"):
        check_bundle(arguments)
        return
    if name.split(".")[0] not in ("monai_adversarial", "benchmarks"):
        importlib.import_module(name.split(".")[0])
        return
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        parse(parser, arguments, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("page", [page for page in pages() if any(b.language == "yaml" for b in blocks_of(page))])
def test_yaml_blocks_are_configs(page: str) -> None:
    """Each loads, and every ``_target_`` in it can be imported and takes the arguments that stand there."""
    for block in blocks_of(page):
        if block.language != "yaml" or block.reason is not None:
            continue
        config = yaml.safe_load(block.code)
        assert isinstance(config, dict | list), block.code
        ConfigParser({"block": config}).parse()
        check_targets(config)


def check_targets(config: Any) -> None:
    """Every full dotted ``_target_`` exists."""
    if isinstance(config, dict):
        target = config.get("_target_")
        if isinstance(target, str) and target.startswith("monai"):
            module, _, name = target.rpartition(".")
            assert hasattr(importlib.import_module(module), name), target
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            check_targets(value)
