# SPDX-License-Identifier: Apache-2.0
"""The engine of every study: cells of case x attack x defense x network, one record each, and tables over them."""

from __future__ import annotations

import os
import sys
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from monai_adversarial.studies.command_line import USER_ERRORS, root_sentence
from monai_adversarial.studies.records import FAILED, read_record, safe_name, write_record
from monai_adversarial.utils.files import remove_abandoned
from monai_adversarial.utils.hashing import file_hash, fingerprint
from monai_adversarial.utils.interrupts import ends_cleanly
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["Cell", "Failure", "SettingsError", "Study", "StudyError", "chosen_names"]

UNDEFENDED = "undefended"
MOST_SENTENCES = 5
LONGEST_NAME = 80


class SettingsError(ValueError):
    """A setting that fits no case: it ends a study at once instead of failing every cell.

    >>> import tempfile
    >>> from monai.data import Dataset
    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.studies import AttackStudy, SettingsError
    >>> dataset = Dataset([{"image": ["t1.nii.gz", "t2.nii.gz"]}])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         AttackStudy(example_case(16)[0], dataset, {"pgd": PGD(8, "HU")}, folder, EXAMPLE_CLASSES).cells()
    ...     except SettingsError as error:
    ...         print(str(error)[:38])
    every case needs its image in one file
    """


@dataclass(frozen=True)
class Cell:
    """What is computed at once and recorded in one file.

    >>> from monai_adversarial.studies import Cell
    >>> Cell("spleen_12", "pgd")
    Cell(case='spleen_12', attack='pgd', defense='undefended', network='network')

    Args:
        case: name of the case.
        attack: name of the attack.
        defense: name of the defense.
        network: name of the network.
    """

    case: str
    attack: str
    defense: str = UNDEFENDED
    network: str = "network"

    def __str__(self) -> str:
        usual = {"defense": UNDEFENDED, "network": "network"}
        named = (value for name, value in asdict(self).items() if value != usual.get(name))
        return " ".join(shown_name(value, longest=LONGEST_NAME) for value in named)


@dataclass(frozen=True)
class Failure:
    """A cell without a result, and why."""

    cell: Cell
    sentence: str
    error: BaseException = field(repr=False)


class StudyError(RuntimeError):
    """Some cells of a study failed; the tables cover the others.

    >>> import tempfile
    >>> from monai_adversarial.studies import Cell, Study, StudyError
    >>> class Reading(Study):
    ...     def cells(self):
    ...         return [Cell("case_1", "pgd")]
    ...     def settings(self, cell):
    ...         return {}
    ...     def load(self, case):
    ...         return open(f"{case}.nii.gz")
    ...     def compute(self, cell, case):
    ...         return {}
    ...     def write_report(self, records, failures):
    ...         return {}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = Reading(folder, progress=False)
    ...     try:
    ...         study.finish(study.cells(), study.run_cells(study.cells()))
    ...     except StudyError as error:
    ...         print(error.failures[0].cell, type(error.failures[0].error).__name__)
    case_1 pgd FileNotFoundError

    Attributes:
        failures: one for each cell that failed.
    """

    def __init__(self, failures: Sequence[Failure], cells: int) -> None:
        self.failures = list(failures)
        sentences = list(_by_sentence(failures))
        more = len(sentences) - MOST_SENTENCES
        shown = "; ".join(sentences[:MOST_SENTENCES]) + (f"; and {more} more" if more > 0 else "")
        done = "the tables cover what is done" if len(failures) < cells else "nothing is done"
        super().__init__(f"{len(failures)} of {cells} cells failed, {done}: {shown}")


def _by_sentence(failures: Iterable[Failure]) -> Iterable[str]:
    """One line for each reason, with the cells that it concerns."""
    cells: dict[str, list[str]] = {}
    for failure in failures:
        cells.setdefault(failure.sentence, []).append(str(failure.cell))
    for sentence, names in cells.items():
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"{listed}: {sentence}"


def chosen_names(what: str, selected: Sequence[str] | str | None, known: Iterable[str]) -> list[str]:
    """Selected names: a list, or one string separated by commas (as from a command line); None for all.

    Raises:
        ValueError: for a name that is not known.
    """
    known = list(known)
    if selected is None:
        return known
    if isinstance(selected, str):
        selected = [name.strip() for name in selected.split(",") if name.strip()]
    unknown = [name for name in selected if name not in known]
    if unknown:
        raise ValueError(f"there is no {what} {unknown[0]!r}: choose among {', '.join(known)}.")
    return list(selected)


class Study(ABC):
    """Runs the cells that lack a valid record, and writes tables over all that have one.

    A cell's record is one JSON file, written last and whole, with a fingerprint of everything that decides it and a
    hash of its own content. A cell whose record is there and valid is not run again: an interrupted study goes on
    where it stopped, and a changed one computes what the change concerns. A file that is no record, or was changed
    afterwards, is named and its cell runs again.

    A cell that fails, for a case that cannot be read or a saved file outside its budget, gets a record with the
    sentence under ``"failed"``, is never part of a table and is tried again next time; the others go on. At the end
    ``run`` raises one ``StudyError``, so that a command line ends with an exit status that is not 0. What concerns all
    cells ends a study at once: a ``SettingsError``, and an ``OSError`` where something cannot be written. The tables
    are written once, at the end, also where that or an interrupt comes early (``needs_case`` excepted).

    A subclass says what its cells are, what decides them and how one is computed.

    >>> import tempfile
    >>> from monai_adversarial.studies import Cell, Study
    >>> class Lengths(Study):
    ...     def cells(self):
    ...         return [Cell("case_1", "none"), Cell("case_22", "none")]
    ...     def settings(self, cell):
    ...         return {"version": 1}
    ...     def load(self, case):
    ...         return case
    ...     def compute(self, cell, case):
    ...         print("computes", case)
    ...         return {"length": len(case)}
    ...     def write_report(self, records, failures):
    ...         return {"lengths": [record["length"] for record in records]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = Lengths(folder, progress=False)
    ...     first = study.finish(study.cells(), study.run_cells(study.cells()))
    ...     again = study.finish(study.cells(), study.run_cells(study.cells()))
    computes case_1
    computes case_22
    2 of 2 cells are done already, 0 to go.
    >>> first, first == again
    ({'lengths': [6, 7]}, True)

    Args:
        output_dir: records, files and tables; created if needed.
        progress: show a progress bar.
    """

    #: what the progress bar is called
    title = "study"
    #: ``settings`` needs the loaded case: whether a cell is done is asked when its case is read, and not before
    needs_case = False

    def __init__(self, output_dir: str | os.PathLike[str], progress: bool = True) -> None:
        self.output_dir = Path(output_dir)
        self.progress = bool(progress)
        self._marks: dict[Cell, str] = {}
        self._said: set[tuple[str, str]] = set()
        self._unread: set[str] = set()
        self._failures: list[Failure] = []
        self._file_hashes: dict[tuple[str, int, int, int], str] = {}

    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """All cells, in the order of the tables."""

    @abstractmethod
    def settings(self, cell: Cell) -> Mapping[str, Any]:
        """Everything that decides a cell's record, as JSON.

        Raises:
            Exception: where an input of the cell cannot be used; the cell fails.
        """

    @abstractmethod
    def compute(self, cell: Cell, case: Any) -> Mapping[str, Any]:
        """Compute a cell and return its record (see ``measurement_record``).

        Args:
            cell: which.
            case: what ``load`` returned for it.
        """

    @abstractmethod
    def write_report(self, records: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write the tables and return what ``run`` returns.

        Args:
            records: of all cells that have a valid one, in the order of ``cells``.
            failures: of this run.
        """

    def load(self, case: str) -> Any:
        """Read a case; called once for all of its cells that run under one network."""
        return None

    def knows(self, case: str) -> bool:
        """Whether ``settings`` needs a case no more that it once was loaded for; see ``needs_case``."""
        return False

    def source(self, case: str) -> str | None:
        """The file that a failure of a case names; None where a case has none."""
        return None

    def network_scope(self, network: str) -> AbstractContextManager[Any]:
        """What is open while the cells of a network run."""
        return nullcontext()

    def record_path(self, cell: Cell) -> Path:
        """Where the record of a cell lies."""
        names = [safe_name(name) for name in (cell.network, cell.defense, cell.attack)]
        return self.output_dir.joinpath("records", *names, f"{safe_name(cell.case)}.json")

    def files(self, cell: Cell) -> Sequence[Path]:
        """Files that a cell writes beside its record, whether or not they are there."""
        return ()

    def record(self, cell: Cell) -> dict[str, Any] | None:
        """The valid record of a cell; None where it has to run."""
        mark = self.fingerprint(cell)  # first: a bad input is found before anything is computed
        found, _ = read_record(self.record_path(cell))
        if found is None or FAILED in found or found.get("fingerprint") != mark:
            return None
        try:
            holds = self.files_hold(cell, found)
        except (KeyError, TypeError, AttributeError, ValueError):  # a record of other keys than this study writes
            holds = False
        if not holds:
            self._say_once(self.record_path(cell), "vouches for files that are missing or were changed")
        return found if holds else None

    def files_hold(self, cell: Cell, record: Mapping[str, Any]) -> bool:
        """Whether the files that a record vouches for are there, as they were written."""
        return True

    def recorded_files_hold(self, record: Mapping[str, Any]) -> bool:
        """Whether the files that a record names are there with the hashes that it gives; each is read once until it
        changes."""
        hashes = record["hashes"]["files"]
        return all(self._holds(self.output_dir / file, hashes.get(kind)) for kind, file in record["files"].items())

    def _holds(self, path: Path, expected: str | None) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        key = str(path), status.st_ino, status.st_ctime_ns, status.st_size  # times of change cannot be set back
        if key not in self._file_hashes:
            self._file_hashes[key] = file_hash(path)
        return self._file_hashes[key] == expected

    def fingerprint(self, cell: Cell) -> str:
        """SHA-256 of everything that decides a cell's record."""
        if cell not in self._marks:
            self._marks[cell] = fingerprint({**asdict(cell), **self.settings(cell)})
        return self._marks[cell]

    @property
    def failures(self) -> list[Failure]:
        """Of the last run."""
        return list(self._failures)

    def forget(self) -> None:
        """Forget what was read of inputs: they may have changed since the last run."""
        self._marks.clear()
        self._said.clear()
        self._unread.clear()

    def records(self) -> list[dict[str, Any]]:
        """The valid records of all cells, whether or not this run computed them."""
        found = []
        for cell in self.cells():
            if cell.case in self._unread:
                continue
            try:
                record = self.record(cell)
            except SettingsError:
                raise
            except Exception:  # an input that cannot be read: nothing can be said for its cell
                continue
            if record is not None:
                found.append(record)
        return found

    def run_cells(self, wanted: Sequence[Cell]) -> list[Failure]:
        """Run the cells that lack a valid record, each network and each of its cases together.

        Returns:
            the cells that failed.

        Raises:
            SettingsError: for what fits no case.
            OSError: where something cannot be written.
        """
        self._check_names(wanted)
        self.forget()
        self._failures.clear()
        self.make_folder()
        missing, failures = (list(wanted), []) if self.needs_case else self._look(wanted)
        self._say_done(len(wanted) - len(missing) - len(failures), len(wanted), len(missing))
        hidden = not self.progress
        try:
            with (
                ends_cleanly(),
                tqdm(total=len(missing), desc=self.title, unit="cell", disable=hidden, file=sys.stderr) as bar,
            ):
                for network, of_network in _grouped(missing, "network"):
                    failures += self._run_network(network, of_network, bar)
        except (KeyboardInterrupt, SystemExit):
            print("\ninterrupted: what is finished is kept; start again to continue.", file=sys.stderr)
            self._report_so_far()
            raise
        except Exception:
            self._report_so_far()
            raise
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return failures

    def _report_so_far(self) -> None:
        """Report on what is done although the study ends early."""
        if self.needs_case:  # to ask which cells are done would read all cases
            return
        with suppress(Exception):  # why the study ends is what has to be said
            if records := self.records():
                self.write_report(records, self._failures)

    @staticmethod
    def _say_done(done: int, cells: int, missing: int) -> None:
        if done:
            print(f"{done} of {cells} cells are done already, {missing} to go.", flush=True)

    def finish(self, wanted: Sequence[Cell], failures: Sequence[Failure]) -> dict[str, Any]:
        """Write the tables over what is done.

        Returns:
            what ``write_report`` returns.

        Raises:
            StudyError: where cells failed, after the tables are written.
        """
        records = self.records()
        summary: dict[str, Any] = {}
        if records or not failures:
            self.make_folder()
            summary = self.write_report(records, failures)
        if failures:
            print(f"\n{len(failures)} of {len(wanted)} cells failed; the next run tries them again:", file=sys.stderr)
            for line in _by_sentence(failures):
                print(f"  {line}", file=sys.stderr)
            raise StudyError(failures, len(wanted)) from failures[0].error
        return summary

    def make_folder(self) -> None:
        """Create the output folder.

        Raises:
            OSError: one sentence that names it.
        """
        try:
            self.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot create the output folder {self.output_dir}: {error.strerror}"
            raise OSError(error.errno, reason) from error
        remove_abandoned(self.output_dir)

    def _check_names(self, wanted: Sequence[Cell]) -> None:
        """Two cells must not share a record: one would be overwritten and the other counted twice."""
        owners: dict[str, Cell] = {}
        for cell in wanted:
            # As a file system sees it that ignores case and the spelling of accents.
            key = unicodedata.normalize("NFC", os.fspath(self.record_path(cell))).casefold()
            if key in owners:
                raise SettingsError(
                    f"every cell needs names of its own, but {str(owners[key])!r} and {str(cell)!r} share one record."
                )
            owners[key] = cell

    def _look(self, wanted: Sequence[Cell]) -> tuple[list[Cell], list[Failure]]:
        """Cells to run, and those whose input is known to be bad before anything is computed."""
        missing, failures = [], []
        for cell in wanted:
            path = self.record_path(cell)
            if read_record(path)[1]:
                self._say_once(path, "is no record of this study or was changed")
            try:
                if self.record(cell) is None:
                    missing.append(cell)
            except SettingsError:
                raise
            except Exception as error:
                failures.append(self._fail(cell, error, keep=True))
        return missing, failures

    def _say_once(self, path: Path, what: str) -> None:
        """Name a record that does not hold."""
        if (str(path), what) not in self._said:
            self._said.add((str(path), what))
            tqdm.write(f"{shown_name(path)} {what}: its cell runs again.", file=sys.stderr)

    def _run_network(self, network: str, cells: Sequence[Cell], bar: tqdm) -> list[Failure]:
        failures = []
        with ExitStack() as stack:
            try:
                stack.enter_context(self.network_scope(network))
            except SettingsError:
                raise
            except Exception as error:
                bar.update(len(cells))
                return [self._fail(cell, error, keep=self.needs_case, of_case=False) for cell in cells]
            for name, of_case in _grouped(cells, "case"):
                failures += self._run_case(name, of_case, bar)
        return failures

    def _run_case(self, name: str, cells: Sequence[Cell], bar: tqdm) -> list[Failure]:
        failures: list[Failure] = []
        missing, case = list(cells), None
        try:
            if self.needs_case:
                case = None if self.knows(name) else self.load(name)
                missing, failures = self._look(cells)
                bar.update(len(cells) - len(missing))
            if missing and case is None:
                case = self.load(name)
        except SettingsError:
            raise
        except Exception as error:
            bar.update(len(missing))
            if self.needs_case:  # nothing can be said for its cells
                self._unread.add(name)
            return failures + [self._fail(cell, error, keep=self.needs_case) for cell in missing]
        for cell in missing:
            bar.set_postfix_str(str(cell))
            failure = self._run_cell(cell, case)
            failures += [] if failure is None else [failure]
            bar.update()
        return failures

    def _run_cell(self, cell: Cell, case: Any) -> Failure | None:
        self.discard(cell)  # an old record must not vouch for new files
        try:
            content = {"fingerprint": self.fingerprint(cell), **self.compute(cell, case)}
            write_record(self.record_path(cell), content)
        except Exception as error:
            # What cannot be written concerns all cells; an input that has gone concerns its own.
            unwritable = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
            if unwritable or isinstance(error, SettingsError):
                self.discard(cell)
                raise
            return self._fail(cell, error)
        except BaseException:
            self.discard(cell)
            raise
        return None

    def discard(self, cell: Cell) -> None:
        """Remove a cell's record and files: nothing half-done stays under a final name."""
        for path in (self.record_path(cell), *self.files(cell)):
            try:
                path.unlink(missing_ok=True)
            except OSError:  # the error that led here is the one to report
                continue

    def _fail(self, cell: Cell, error: BaseException, keep: bool = False, of_case: bool = True) -> Failure:
        """Record a failure; ``keep`` an earlier result of which nobody can say that it does not hold: its input may be
        back tomorrow."""
        sentence = root_sentence(error)
        if not isinstance(error, USER_ERRORS):
            sentence = f"{type(error).__name__}: {sentence}"
        source = self.source(cell.case) if of_case else None
        if source is not None and source not in sentence:
            sentence = f"{sentence.rstrip('.')} ({source})."
        path = self.record_path(cell)
        earlier, _ = read_record(path)
        if not keep or earlier is None or FAILED in earlier:
            self.discard(cell)
            write_record(path, {FAILED: sentence, **asdict(cell)})
        about = cell.case if of_case else cell.network
        if (about, sentence) not in self._said:
            self._said.add((about, sentence))
            tqdm.write(f"failed: {cell}: {sentence}", file=sys.stderr)
        self._failures.append(Failure(cell, sentence, error))
        return self._failures[-1]


def _grouped(cells: Sequence[Cell], key: str) -> list[tuple[str, list[Cell]]]:
    """Cells by one of their names, in the order in which the names first come."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(getattr(cell, key), []).append(cell)
    return list(groups.items())
