# SPDX-License-Identifier: Apache-2.0
"""The attacked function of one batch: a model in a chosen precision, with its weights frozen."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from monai_adversarial.inferers.memory_bounded import MemoryBoundedSlidingWindowInferer, memory_bounded
from monai_adversarial.inferers.purified import PurifiedInferer, purifies_at_random
from monai_adversarial.models.answer import Answer, AnswerBuilder
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.first_batch import check_answer, random_state, refuse_boxes, task_of_answer
from monai_adversarial.models.gradient_cuts import GradientCuts, cuts_in_script
from monai_adversarial.models.kept_state import KeptState
from monai_adversarial.models.output_values import (
    FinalActivation,
    OutputReading,
    OutputSummary,
    log_odds,
    note_output_values,
    read_output_values,
)
from monai_adversarial.models.window_run import LookAtWindows, WindowRun
from monai_adversarial.utils.channels_last import with_channels_last
from monai_adversarial.utils.layer_checkpoints import with_layer_checkpoints
from monai_adversarial.utils.modules import bare_network, modules_of, unwrap
from monai_adversarial.utils.plain import as_plain, detached
from monai_adversarial.utils.precision import Precision
from monai_adversarial.utils.slabs import slabs

__all__ = ["LookAtPieces", "Predictor"]

#: is shown samples, box and logits (sample, class, box) of a finished piece of an answer
LookAtPieces = Callable[[slice, tuple[slice, ...], torch.Tensor], None]
#: share of the voxels in which two answers of one function may differ where its sums are not exact
ROUNDED = 1e-3
#: share of an image's range by which all voxels grow brighter, and no segmentation becomes another one
UNSEEN = 1e-5


class _Compiled:
    """The compiled form of a network, kept in the network's own attributes so that both are freed together; copies and
    files of the network do not hold it."""

    attribute = "_compiled_for_attacks"

    def __init__(self, network: nn.Module) -> None:
        # Not dynamic: torch 2.13 fails to compile this backward pass for a second shape that way.
        self.call = torch.compile(network, dynamic=False)

    @classmethod
    def of(cls, network: Any) -> Any:
        """The compiled network, made on the first call."""
        kept = vars(network).get(cls.attribute)
        if kept is None:
            # Not through setattr: it would become a part of the network and of its state.
            kept = vars(network)[cls.attribute] = cls(network)
        return kept.call

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()


class Predictor:
    """The function ``image -> logits`` that an attack differentiates.

    Args:
        model: what is attacked.
        image: the clean batch with all its channels; a ``MetaTensor`` lets inferers with a ``for_image`` method read
            its affine.
        units: units in which ``image`` comes.
        network: what is called instead of the model's network: itself, frozen, or a frozen copy of it (see
            ``held_still``); None for the model's network as it is.

    Attributes:
        networks: the modules behind what is called.
        precision: where the network computes in the attack's steps; logits come back in float32 (float64 for float64
            images).
        intensity: map from HU to the network's values for this batch; None where there is none.
        intensity_doubt: why there is none, where one was to be read from the pipeline.
        forwards: samples that went forward, all calls together.
        drew_random_numbers: whether the first pass took random numbers, from generators of torch, NumPy or Python as
            active dropout does, or from those that the network holds.
        draws_anew: whether that pass called for random numbers, be it from a generator that it made itself.
        was_watched: whether there was a first pass.
        kept: what network and inferer held before the first pass of a model's first batch; None for others.
        cut: the call in that pass that cuts the gradient, such as ``"detach"``; empty where none was seen.
        closed: it must not be asked now.
        surrogates: what is followed instead of it in the attack's steps; None for itself.

    Raises:
        ValueError: when weights are in half precision or on another device than the image.
    """

    def __init__(
        self,
        model: AttackedModel,
        image: torch.Tensor,
        units: str = "network",
        network: Callable[..., Any] | None = None,
    ) -> None:
        self.model = model
        self.units = units
        own = unwrap(model.network)
        network = own if network is None else network
        self.networks = modules_of(network)
        plain = detached(image)
        # A copy that lives for one attack is not worth compiling.
        self._compiles = model.compile_network and isinstance(network, nn.Module) and network is own
        # What has no weights here (NumPy inside, another runtime, a server) takes and gives float32: autocast would
        # change the torch operations around it, not its own arithmetic.
        opaque = next((weight for one in self.networks for weight in one.parameters()), None) is None
        precision, scoring = ("float32",) * 2 if opaque else (model.precision, model.scoring_precision)
        self.precision = Precision(precision, plain, fast_kernels=not self._compiles)
        # Scores and references: torch's own kernels, in the arithmetic that the network is deployed in.
        self.scoring = Precision(scoring, plain)
        self.forwards = 0
        self.closed = False
        self.surrogates: tuple[Predictor, ...] | None = None
        self.drew_random_numbers = False
        self.draws_anew = False
        self.was_watched = False
        self.kept: KeptState | None = None
        self.cut = ""
        self._called = network
        inferer = model.inferer
        if inferer is not None:
            if hasattr(inferer, "for_image"):
                inferer = inferer.for_image(image)
            inferer = memory_bounded(inferer)
        self.inferer = self._inferer_of_all = inferer
        self._check_weights(image)
        if self._compiles:
            network = _Compiled.of(network)
        self._final = FinalActivation(network)
        # What a compiled network calls cannot be seen, and looking would compile it again.
        self._is_compiled = hasattr(network, "_orig_mod")
        self._final.watch = model.found_output_values is None and not self._is_compiled
        # Around the network alone: an inferer's resampling stays in float32, and a backward pass that calls the network
        # again, window by window, does so in the same precision.
        called = with_layer_checkpoints(self._final, model.checkpoint_layers, model.graph_sizes)
        if self.precision.fast_kernels and self.precision.dtype == torch.bfloat16:
            called = with_channels_last(called, network)
        self._network = self.precision.wrap(called)
        self._scored_network = self.scoring.wrap(self._final)
        self._whole = plain
        self.intensity, self.intensity_doubt = model.intensity_and_doubt(image)
        self._intensity = self.intensity
        self._arguments: tuple[tuple[Any, ...], dict[str, Any]] = (model.network_args, model.network_kwargs)
        self._rows: torch.Tensor | None = None
        # Found by an earlier batch of the same model.
        if model.found_output_values is not None:
            self._use_found()

    def use_samples(self, indices: Sequence[int]) -> None:
        """Expect some samples of the clean batch only: an inferer may know each sample's affine, guidance channels and
        further inputs belong to samples."""
        for_samples = getattr(self._inferer_of_all, "for_samples", None)
        if for_samples is not None:
            self.inferer = for_samples(indices)
        batch = self._whole.shape[0]
        everyone = list(indices) == list(range(batch))
        rows = None if everyone else torch.as_tensor(list(indices), device=self._whole.device)
        self._rows = rows
        self._intensity = None if self.intensity is None else self.intensity.select(indices)

        def chosen(value: Any) -> Any:
            belongs = isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape[0] == batch
            return value.index_select(0, rows.to(value.device)) if belongs and rows is not None else value

        model = self.model
        self._arguments = (
            tuple(chosen(value) for value in model.network_args),
            {name: chosen(value) for name, value in model.network_kwargs.items()},
        )

    def _check_weights(self, image: torch.Tensor) -> None:
        for network in self.networks:
            for name, weight in network.named_parameters():
                if weight.dtype in (torch.float16, torch.bfloat16):
                    raise ValueError(
                        f"the network's weights must be float32, got {weight.dtype} for {name!r}: keep them in "
                        "float32 and choose "
                        "precision='bfloat16' or 'float16', which runs the network under autocast."
                    )
                if weight.device != image.device:
                    raise ValueError(
                        f"the image is on {image.device} but the network's weight {name!r} is on {weight.device}: "
                        "move one of them."
                    )
                break  # networks of mixed dtype are rare, and torch names them itself

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, class, spatial...) of the image channels, in the precision of the attack's steps; those of a
        classifier are (batch, class, 1)."""
        return self._logits(image, self._network)

    def in_float32(self) -> Predictor:
        """The same function in torch's own float32 arithmetic, precise enough for differences of its values."""
        made = copy.copy(self)
        made.precision = Precision("float32", self._whole)
        made._network = made.precision.wrap(
            with_layer_checkpoints(self._final, self.model.checkpoint_layers, self.model.graph_sizes)
        )
        return made

    def answer(
        self,
        image: torch.Tensor,
        look_at_windows: LookAtWindows | None = None,
        look_at_pieces: LookAtPieces | None = None,
    ) -> Answer:
        """The segmentation as it is scored: in the scoring precision, and as it is deployed. Sliding windows are
        stitched piece by piece.

        Args:
            image: image channels of the batch.
            look_at_windows: is shown the logits of the windows, where the network runs in windows.
            look_at_pieces: is shown samples, box and final logits of each piece of the image.
        """
        with torch.no_grad(), self._as_deployed():
            return self._answer(image, self._scored_network, look_at_windows, look_at_pieces)

    def learn(self, image: torch.Tensor, scored: bool = False) -> None:
        """Find out what the output is, where no earlier batch has shown it: for attacks without a clean pass that need
        to know it before their first step. From an answer with NaN nothing is learned.

        Args:
            image: image channels of the clean batch.
            scored: in the scoring precision instead of that of the attack's steps.
        """
        if self.model.found_output_values is not None and self.model.found_classes is not None:
            return
        with torch.no_grad(), self._as_deployed():
            with self._watched(image, closely=scored):
                answer = self._answer(image, self._scored_network if scored else self._network)
            if answer.summary.is_finite:
                self._conclude(answer.summary)

    def read_clean(self, image: torch.Tensor) -> Answer:
        """The segmentation of the clean batch as it is scored; finds out, or checks, what the output's values mean.

        Args:
            image: image channels of the clean batch.

        Raises:
            TypeError, ValueError: for an answer that is no segmentation, NaN, or values that contradict the model.
        """
        with torch.no_grad(), self._as_deployed():
            with self._watched(image, closely=True):
                answer = self._answer(image, self._scored_network)
            self._conclude(answer.summary)
            if answer.reading != self._known_reading(answer.classes):
                # The first window alone had looked like something else.
                self._final.bypass = False
                answer = self._answer(image, self._scored_network)
            return answer

    def read_clean_logits(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the clean batch in the precision of the attack's steps, for soft references; as ``read_clean``, but
        NaN is handed on: it must not end a training."""
        with torch.no_grad(), self._as_deployed():
            with self._watched(image):
                raw = self._raw(image, self._network)
            self._learn(raw, image)
            return self._as_logits(raw, bypassed=False)

    def first_step(self, image: torch.Tensor) -> torch.Tensor:
        """As a call; for attacks without a clean pass, in training, whose first step is the first that is seen of the
        network. NaN is handed on: it must not end a training."""
        if self.model.found_output_values is not None:
            return self(image)
        with self._watched(image):
            raw = self._raw(image, self._network)
        self._learn(raw.detach() if isinstance(raw, torch.Tensor) else raw, image)
        if self._final.bypass:
            return self(image)
        return self._as_logits(raw, bypassed=False)

    @contextmanager
    def _watched(self, image: torch.Tensor, closely: bool = False) -> Iterator[None]:
        """The first pass of a batch, watched for random numbers; that of a scored first batch also for what is kept
        from call to call and for what cuts the gradient."""
        model, before = self.model, random_state(image.device)
        if model.checked or not closely:
            yield
        else:
            self.kept = KeptState(self._called, model.inferer)
            compiled = self._compiles or self._is_compiled
            with nullcontext(GradientCuts()) if compiled else GradientCuts() as cuts:
                yield
            if compiled:
                cuts = self._cuts_before_compiling(image)
            self.cut = cuts.found or cuts_in_script(self.networks)
            self.draws_anew = cuts.draws
            model.draws_itself = self.kept.drew_random_numbers()
        drew = not all(map(torch.equal, before, random_state(image.device)))
        self.drew_random_numbers = drew or model.draws_itself
        model.found_random = model.found_random or self.drew_random_numbers
        self.was_watched = True

    def _cuts_before_compiling(self, image: torch.Tensor) -> GradientCuts:
        """What a compiled network calls is seen in what it was made of, in one more forward pass."""
        made = copy.copy(self)
        made._final = FinalActivation(bare_network(self._called))
        made._final.watch = False
        with GradientCuts() as cuts:
            made._answer(image, made.scoring.wrap(made._final))
        self.forwards = made.forwards
        return cuts

    @contextmanager
    def _as_deployed(self) -> Iterator[None]:
        """With the activation that the network ends in, also where an earlier batch has shown that there is one."""
        self._final.bypass = False
        try:
            yield
        finally:
            self._final.bypass = self.model.found_output_values == "probabilities"

    def _learn(self, raw: Any, image: torch.Tensor) -> None:
        """Learn from a whole answer; from one with NaN nothing."""
        check_answer(raw, image, self.model.classifies)
        self.model.found_classes = int(raw.shape[1])
        summary = OutputSummary.of(raw)
        if summary.is_finite:
            self._conclude(summary)

    def _conclude(self, summary: OutputSummary) -> None:
        if not summary.is_finite:
            raise ValueError(
                "the network returned NaN or infinite logits for the clean image: check its weights and the "
                "intensity map."
            )
        if self.model.found_output_values is None:
            final = self._final.activation(self.model.output)
            reading = read_output_values(self.model, summary, final)
            self.model.found_final_activation = final if reading.values == "probabilities" else None
            note_output_values(self.model, reading)
        self._use_found()

    def _known_reading(self, classes: int) -> OutputReading:
        """What earlier batches have shown of the output's values."""
        return OutputReading(self.model.found_output_values or "logits", self.model.activation_of(classes))

    def _reading_of(self, seen: OutputSummary | None) -> OutputReading:
        """What the output's values are as far as the first pieces of an answer tell."""
        assert seen is not None
        classes = seen.channels
        if self.model.found_output_values is not None:
            return self._known_reading(classes)
        try:
            final = self._final.activation(self.model.output)
            found = read_output_values(self.model, seen, final)
        except ValueError:  # the whole answer decides
            return self._known_reading(classes)
        return OutputReading(
            found.values, self.model.activation or found.activation or self.model.activation_of(classes)
        )

    def _answer(
        self,
        image: torch.Tensor,
        network: Callable[..., Any],
        look_at_windows: LookAtWindows | None = None,
        look_at_pieces: LookAtPieces | None = None,
    ) -> Answer:
        builder: AnswerBuilder | None = None
        run = self.windows(image, network)
        if run is None:
            raw = self._raw(image, network)
            check_answer(raw, image, self.model.classifies)
            pieces = _slabs_of(raw)
        else:
            pieces = run.stitched(look_at_windows)
        for rows, where, piece in pieces:
            if builder is None:
                classes = self.model.found_classes = int(piece.shape[1])
                # All that is known when the first piece is finished.
                seen = OutputSummary.of(raw) if run is None else run.first
                builder = AnswerBuilder(image, self.grid(image), classes, self._reading_of(seen))
            builder.add(rows, where, piece)
            if look_at_pieces is not None:
                look_at_pieces(rows, where, self._as_logits(piece, bypassed=False))
        assert builder is not None
        return builder.finish()

    def grid(self, image: torch.Tensor) -> tuple[int, ...]:
        """Spatial shape of the answer: that of the image, (1,) for a classifier."""
        return (1,) if self.model.classifies else tuple(image.shape[2:])

    def windows(self, image: torch.Tensor, network: Callable[..., Any] | None = None) -> WindowRun | None:
        """The network's windows over the image, one after the other; None where it does not run in plain windows.

        Args:
            image: image channels; the gradient of a window's input flows into them.
            network: what to call; None for the network in the precision of the attack's steps.
        """
        windows = self.plain_windows
        if windows is None:
            return None
        seen, inferer = self._seen(image), self.inferer
        while isinstance(inferer, PurifiedInferer):
            seen, inferer = inferer.purify(seen), inferer.inferer
        args, kwargs = self._arguments
        plan = windows.plan(seen, network or self._network, *args, **kwargs)
        self._count(image)
        return WindowRun(plan, self._picked, lambda raw: self._as_logits(raw, self._left_out()))

    @property
    def plain_windows(self) -> MemoryBoundedSlidingWindowInferer | None:
        """The sliding windows that the network runs in, behind purifiers that move nothing; None for everything else,
        whose answer is known as a whole only."""
        inferer = self.inferer
        while type(inferer) is PurifiedInferer and not inferer.is_geometric:
            inferer = inferer.inferer
        # A subclass may place and weight its windows otherwise: they are those of its plan, unless it has its own call.
        if not isinstance(inferer, MemoryBoundedSlidingWindowInferer):
            return None
        return inferer if type(inferer).__call__ is MemoryBoundedSlidingWindowInferer.__call__ else None

    @contextmanager
    def watching_answers(self, look: Callable[[Callable[[], torch.Tensor]], None]) -> Iterator[None]:
        """Show each answer of the network inside, window by window where it runs in windows.

        Args:
            look: is shown a function that gives the logits of the answer, (window, class, spatial...).
        """

        def hook(module: nn.Module, inputs: Any, raw: Any) -> None:
            look(lambda: self._as_logits(as_plain(self._picked(raw, inputs[0])), self._left_out()))

        handle = self._final.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @property
    def is_constant(self) -> bool:
        """Whether the same input is known to give the same output: no random numbers, no random purifier."""
        if not self.was_watched or self.drew_random_numbers:
            return False
        return not self.purifies_at_random

    @property
    def purifies_at_random(self) -> bool:
        """Whether a purifier draws, wherever it stands: around the inferer, or inside one."""
        return self.inferer is not None and purifies_at_random(self.inferer)

    def depends_on_the_past(self, image: torch.Tensor, clean: Answer | None = None) -> bool:
        """Whether the answer to an image is another one after the clean batch than before it. Two forward passes; what
        network and inferer hold is the same afterwards.

        Args:
            image: image channels of a batch, other than the clean one.
            clean: the answer to the clean one, for an image that is near to it. Their segmentations may be the same, so
                that this answer to the last digit afterwards, and another one before, is dependence, too.
        """
        assert self.kept is not None
        present = KeptState(self._called, self.model.inferer)
        after = self.answer(image)
        self.kept.restore()
        before = self.answer(image)
        present.restore()
        repeated = clean is not None and after.equals(clean) and not before.equals(clean)
        return repeated or after.share_of_others(before) > ROUNDED

    def depends_on_what_it_held(self, image: torch.Tensor) -> list[str]:
        """Names of what the network held before it was asked the first time, where its answer to an image is another
        one without it. Two forward passes where it held something, none elsewhere.

        Args:
            image: image channels of a batch, other than the clean one.
        """
        assert self.kept is not None
        present = KeptState(self._called, self.model.inferer)
        with self.kept.emptied(tuple(image.shape[2:])) as names:
            if not names:
                return []
            try:
                without = self.answer(image)
            except Exception:  # it cannot be asked without
                without = None
        present.restore()
        if without is None:
            return []
        share = self.answer(image).share_of_others(without)
        present.restore()
        return names if share > ROUNDED else []

    def is_seeded_by(self, image: torch.Tensor, answer: Answer) -> bool:
        """Whether a change that nobody sees gives another answer in many voxels, as where the image seeds the random
        numbers. One forward pass.

        Args:
            image: image channels of the clean batch.
            answer: its answer.
        """
        lowest, highest = image.amin(), image.amax()
        return self.answer(image + UNSEEN * (highest - lowest)).share_of_others(answer) > ROUNDED

    def _use_found(self) -> None:
        found = self.model.found_final_activation is not None and not self._is_compiled
        self._final.bypass = self.model.found_output_values == "probabilities"
        self._final.logarithm = None if found else self.model.activation or self.model.found_activation
        self._final.watch = False

    def _seen(self, image: torch.Tensor) -> torch.Tensor:
        """The network's input with all its channels."""
        # Guidance channels stay as they are: the map is for the image alone.
        seen = image if self._intensity is None or self.units != "HU" else self._intensity(image)
        if self.model.image_channels is None:
            return seen
        whole = self._whole if self._rows is None else self._whole.index_select(0, self._rows)
        return self.model.whole_image(seen, whole)

    @contextmanager
    def only_surrogates(self) -> Iterator[None]:
        """Steps in which the model itself must not be asked, where surrogates are followed instead."""
        self.closed = self.surrogates is not None
        try:
            yield
        finally:
            self.closed = False

    def _count(self, image: torch.Tensor) -> None:
        if self.closed:
            raise RuntimeError("the attacked model was asked during a search that follows surrogates alone.")
        self.forwards += image.shape[0]

    def _raw(self, image: torch.Tensor, network: Callable[..., Any]) -> Any:
        self._count(image)
        seen = self._seen(image)
        args, kwargs = self._arguments
        if self.inferer is None:
            raw = network(seen, *args, **kwargs)
        else:
            with _can_be_copied(seen):
                raw = self.inferer(seen, network, *args, **kwargs)
        picked = self._picked(raw, image)
        if not isinstance(picked, torch.Tensor):
            return picked  # check_logits says what is wrong with it
        placed = self._placed(as_plain(picked), image)
        return placed.to(image.dtype) if placed.is_floating_point() else placed

    def _placed(self, picked: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """One answer per image as a segmentation of a single voxel, (batch, class, 1): all that works on segmentations
        works on it. Which of the two it is, the first answer shows.

        Raises:
            ValueError: where the answer contradicts the task.
        """
        task, known = task_of_answer(picked, image), self.model.found_task
        if task is None:
            return picked  # check_answer says what is wrong with it
        if known is not None and task != known:
            how = "one answer per image" if task == "classification" else "one answer per voxel"
            raise ValueError(
                f"the model's task is {known!r}, but the network returns {tuple(picked.shape)}, {how}: leave task out, "
                "or pick another output."
            )
        self.model.found_task = task
        if task == "segmentation":
            return picked
        if picked.numel() == picked.shape[0]:
            self._note("one value per image is taken for the logit of a binary classifier")
        return picked.reshape(picked.shape[0], -1, 1)

    def _picked(self, raw: Any, image: torch.Tensor) -> Any:
        """The tensor that is attacked, among what the network returned.

        Raises:
            TypeError: where it is not clear which.
            ValueError: for an ``output`` that picks nothing.
        """
        output = self.model.output
        if output is not None:
            try:
                return output(raw) if callable(output) else raw[output]
            except (IndexError, KeyError, TypeError) as error:
                raise ValueError(
                    f"output={output!r} picks nothing from what the network returned, {_shapes_of(raw)} "
                    f"({type(error).__name__}: {error})."
                ) from None
        if isinstance(raw, torch.Tensor):
            is_stack = raw.ndim == image.ndim + 1 and raw.shape[:1] + raw.shape[3:] == image.shape[:1] + image.shape[2:]
            # Deep supervision of MONAI's DynUNet: (batch, level, class, spatial...), full resolution first.
            if is_stack:
                self._note(f"level 0 of {raw.shape[1]} stacked outputs of the network is attacked")
                return raw[:, 0]
            return raw
        refuse_boxes(raw)
        if isinstance(raw, (list, tuple)) and len(raw) == 1:
            return raw[0]
        if isinstance(raw, (list, tuple)):
            fits = [number for number, value in enumerate(raw) if _is_on_grid(value, image)]
            if len(fits) == 1 and not self.model.classifies:
                self._note(f"output {fits[0]} of the network's {len(raw)} is attacked: the one on the image's grid")
                return raw[fits[0]]
            rows = [number for number, value in enumerate(raw) if _is_per_image(value, image)]
            if len(rows) == 1 and (self.model.classifies or not fits):
                self._note(f"output {rows[0]} of the network's {len(raw)} is attacked: the one answer per image")
                return raw[rows[0]]
        raise TypeError(
            f"the network must return one tensor of logits, or one on the image's grid "
            f"{tuple(image.shape[2:])} among several, got {_shapes_of(raw)}: pass output=<index, key or callable> to "
            "pick the tensor to attack."
        )

    def _note(self, fact: str) -> None:
        if fact not in self.model.facts:
            self.model.facts = (*self.model.facts, fact)

    def _logits(self, image: torch.Tensor, network: Callable[..., Any], bypass: bool = True) -> torch.Tensor:
        before = self._final.bypass
        self._final.bypass = before and bypass
        try:
            raw = self._raw(image, network)
            return self._as_logits(raw, bypassed=self._left_out())
        finally:
            self._final.bypass = before

    def _left_out(self) -> bool:
        return self._final.bypass and self._final.activation(self.model.output) is not None

    def _as_logits(self, raw: Any, bypassed: bool) -> Any:
        if isinstance(raw, torch.Tensor) and self.model.found_output_values == "probabilities" and not bypassed:
            return log_odds(raw, self.model.activation_of(raw.shape[1]))
        return raw


@contextmanager
def _can_be_copied(image: torch.Tensor) -> Iterator[None]:
    """Some inferers copy their input, which torch refuses for a tensor with a history."""
    image.__deepcopy__ = lambda memo: image.clone()  # type: ignore[method-assign]
    try:
        yield
    finally:
        # The function holds the image and the image the function: together they would stay until a garbage collection.
        vars(image).pop("__deepcopy__", None)


def _slabs_of(raw: torch.Tensor) -> Iterator[tuple[slice, tuple[slice, ...], torch.Tensor]]:
    """Samples, box and voxels of one slab of a whole answer after the other."""
    for where in slabs(raw.shape[2:], raw.shape[0] * raw.shape[1]):
        yield slice(None), where, raw[(slice(None), slice(None), *where)]


def _is_on_grid(value: Any, image: torch.Tensor) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.ndim == image.ndim
        and (value.shape[0], *value.shape[2:]) == (image.shape[0], *image.shape[2:])
    )


def _is_per_image(value: Any, image: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[0] == image.shape[0]


def _shapes_of(raw: Any) -> str:
    """What a network returned, for an error message: keys, types and shapes."""
    if isinstance(raw, torch.Tensor):
        return f"a tensor {tuple(raw.shape)}"

    def shape(value: Any) -> str:
        return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__

    if isinstance(raw, Mapping):
        return f"a {type(raw).__name__} of " + ", ".join(f"{key!r}: {shape(value)}" for key, value in raw.items())
    if isinstance(raw, (list, tuple)):
        return f"a {type(raw).__name__} of " + ", ".join(shape(value) for value in raw)
    return type(raw).__name__
