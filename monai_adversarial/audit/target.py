# SPDX-License-Identifier: Apache-2.0
"""A deployed model as audits use it: cases through its own preprocessing, answers through its own postprocessing."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.engines.utils import default_prepare_batch, engine_apply_transform
from monai.inferers import SimpleInferer
from monai.transforms import Compose, EnsureChannelFirst, LoadImage

from monai_adversarial.audit.case_checks import cause_of, check_image, check_label_covers, is_nifti
from monai_adversarial.audit.facts import TRAINED, Fact, Missing, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.segmentation import Segmentation, affine_of, label_on_image, on_grid, same_grid
from monai_adversarial.audit.targets.bundle_items import SeveralFiles, blank_label
from monai_adversarial.data.saving import read_back
from monai_adversarial.metrics.organs import organ_channels
from monai_adversarial.models import AttackedModel, install_recorders
from monai_adversarial.models.engine_parts import preprocessing_of
from monai_adversarial.models.first_batch import untrained_reason
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.models.read_intensity import ReadIntensity
from monai_adversarial.studies.measurement import network_hashes
from monai_adversarial.studies.scoring import device_of
from monai_adversarial.utils.hashing import describe
from monai_adversarial.utils.modules import frozen, held_still, unwrap
from monai_adversarial.utils.plain import as_plain, detached

__all__ = ["AuditCase", "AuditTarget"]


@dataclass
class AuditCase:
    """A case as the network sees it.

    >>> import tempfile
    >>> from monai.transforms import SaveImage
    >>> from monai_adversarial.audit import AuditTarget
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     options = {"separate_folder": False, "print_log": False, "savepath_in_metadict": True}
    ...     saved = SaveImage(folder, output_dtype="int16", **options)(image[0])
    ...     case = AuditTarget.of_model(model).load({"image": str(saved.meta["saved_to"]), "case_id": "a"})
    >>> case.name, case.image.shape, case.label, bool((case.image.cpu() == image).all())
    ('a', torch.Size([1, 1, 16, 16, 16]), None, True)

    Args:
        name: for the report.
        image: (1, channel, spatial...) as it goes into inferer and network, on the network's device.
        label: reference on the grid of ``image`` as an attack takes it, (1, 1 or class, spatial...); None without one.
        reference: the label as it was read, on its own grid; None without one.
        batch: what preprocessing made, collated.
        arguments: further inputs of the network.
        file: of the image.
        dicom: files of the series that ``file`` was made from.
        clean: what is computed once for all rows.
    """

    name: str
    image: torch.Tensor
    label: torch.Tensor | None
    reference: Segmentation | None
    batch: dict[str, Any]
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    file: str = ""
    dicom: Sequence[str] = ()
    clean: dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> Segmentation:
        """An empty segmentation on the grid of ``image``."""
        return Segmentation(torch.zeros(self.image.shape[2:], dtype=torch.uint8), affine=affine_of(self.image))


class AuditTarget:
    """A deployed model under audit.

    What the network sees is what its own preprocessing makes of a file, and what is scored is what its own
    postprocessing makes of its answer, largest component and way back onto the file's grid included.

    >>> from monai_adversarial.audit import AuditTarget
    >>> from monai_adversarial.data.example import example_case
    >>> target = AuditTarget.of_model(example_case(16)[0], name="toy")
    >>> target.budget_units, list(target.missing)
    ('HU', [])

    Args:
        parts: what a reader found (``monai_adversarial.audit.targets``).

    Attributes:
        model: what is attacked.

    Raises:
        TargetError: for a target of which something is missing, or that does not segment.
    """

    def __init__(self, parts: TargetParts) -> None:
        self.parts = parts
        self.name, self.kind, self.differentiable = parts.name, parts.kind, parts.differentiable
        told = {"task": "segmentation", **parts.told}  # scores, volumes and pictures are those of organs
        try:
            if parts.engine is not None:
                self.model = AttackedModel.from_engine(parts.engine, parts.image_key, **told)
                self.preprocessing = _with_recorders(parts)
            else:
                self.preprocessing = parts.preprocessing
                if self.preprocessing is not None:
                    self.preprocessing = install_recorders(self.preprocessing, parts.image_key)
                self.model = AttackedModel.from_parts(
                    parts.network,
                    parts.inferer,
                    self.preprocessing,
                    parts.postprocessing,
                    image_key=parts.image_key,
                    **told,
                )
        except (TypeError, ValueError) as error:
            raise TargetError(f"{parts.name} cannot be audited: {error}") from error
        self.postprocessing = parts.postprocessing
        self.prepare_batch = parts.prepare_batch or default_prepare_batch
        # Before any case goes through: transforms may keep what they have seen.
        self._pipeline = describe([parts.preprocessing, parts.postprocessing, parts.prepare_batch, parts.label_masks])
        self._hashes: dict[str, Any] | None = None
        self._channels: int | None = None  # of the images, once one of them went through

    @classmethod
    def of_model(cls, model: AttackedModel, name: str = "") -> AuditTarget:
        """A target that takes images as their files hold them: what lies between is in the model.

        Args:
            model: with ``image_units="HU"``, or a network without a map.
            name: for the report; None for that of the network.

        Raises:
            TargetError: for a model that takes images in the network's values.
        """
        if model.image_units == "network":
            raise TargetError(
                "an AttackedModel with image_units='network' does not say how its images are made: pass image_units="
                "'HU' with what lies between file and network in its intensity or inferer, or TargetParts with a "
                "preprocessing."
            )
        network = unwrap(model.network)
        name = name or type(network).__name__
        made = cls(TargetParts("AttackedModel", name, model.network, model.inferer))
        if model.classifies:
            raise TargetError(f"{name} gives one answer per image: only segmentations are audited.")
        made.model = model.replace(image_units=model.image_units or "HU", task="segmentation")
        return made

    @property
    def missing(self) -> Sequence[Missing]:
        """What is still to be told."""
        return self.parts.missing

    @property
    def budget_units(self) -> str:
        """``"HU"`` where one exact map lies between file and network, else ``"percentile"``: a share of each image's
        range. An image-dependent map (MRI) makes raw values that mean something else in every image."""
        found = self.model.intensity
        if self.model.image_units == "HU" and found is None:
            return "HU"
        exact = found.exact if isinstance(found, ReadIntensity) else found
        return "HU" if exact is not None else "percentile"

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return device_of(self.model)

    def facts(self) -> list[Fact]:
        """What was read, what was told, what the first batch has shown, and whether the network looks untrained."""
        known = {str(fact.value) for fact in self.parts.facts}
        read = [Fact("model", text, "live pipeline") for text in self.model.findings if text not in known]
        gradients = "yes" if self.differentiable else "no: attacked by queries alone"
        untrained = untrained_reason(self.model)
        doubts = [Fact(TRAINED, f"no: {untrained}", "network")] if untrained else []
        return [*self.parts.facts, *read, Fact("gradients", gradients, "network"), *doubts]

    def settings(self) -> dict[str, Any]:
        """What decides the target's answers, for fingerprints: weights, configs, what was told, and the pipeline around
        the network."""
        if self._hashes is None:
            told = {name: value for name, value in self.parts.told.items() if name != "facts"}
            self._hashes = {
                "kind": self.kind,
                "weights": network_hashes(self.model),
                "hashes": dict(self.parts.hashes),
                "told": describe(told),
                "inferer": describe(self.model.inferer),
                "pipeline": self._pipeline,
            }
        return self._hashes

    def load(self, entry: Mapping[str, Any]) -> AuditCase:
        """Preprocess a case.

        Args:
            entry: of ``find_cases``: paths of image and label, ``case_id``.

        Raises:
            RuntimeError: for a file that cannot be read.
            ValueError: for files that hold no image in mm, a label that does not lie on its image, and a pipeline that
                fails, or gives several items of one image, or none.
        """
        image_key, label_key = self.parts.image_key, self.parts.label_key
        label_file = entry.get("label")
        check_image(str(entry["case_id"]), entry["image"])
        if label_file is not None and is_nifti(label_file):
            read = _read_volume(label_file)
            check_label_covers(str(entry["case_id"]), entry["image"], tuple(read.shape[1:]), affine_of(read))
        item: Any = {image_key: entry["image"]}
        with tempfile.TemporaryDirectory() as folder:
            if self.parts.preprocesses_label:
                # A pipeline that cannot do without gets an empty one, which nothing is scored against.
                item[label_key] = blank_label(entry["image"], Path(folder)) if label_file is None else label_file
            try:
                item = self.preprocessing(item) if self.preprocessing is not None else _loaded(item)
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
                raise ValueError(f"the preprocessing of {self.name} fails: {cause_of(error)}") from error
        if not isinstance(item, Mapping):
            raise ValueError(
                f"the preprocessing of {self.name} gives {type(item).__name__} for one image: an audit needs one item."
            )
        batch = list_data_collate([dict(item)])
        prepared: Any = self.prepare_batch(batch, self.device, False)
        arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        if isinstance(prepared, torch.Tensor):
            image, label = prepared, None
        else:
            image, label = prepared[0], prepared[1]
            if len(prepared) == 4:
                arguments = tuple(prepared[2]), dict(prepared[3])
        if not isinstance(image, torch.Tensor) or image.ndim < 4:
            raise ValueError(
                f"the preprocessing of {self.name} must give an image (channel, spatial...), got "
                f"{type(image).__name__}{tuple(getattr(image, 'shape', ())[1:])}."
            )
        case = AuditCase(
            str(entry["case_id"]),
            image,
            None,
            None,
            batch,
            arguments,
            _first(entry["image"]),
            tuple(entry.get("dicom", ())),
        )
        if label_file is not None:
            self._read_label(case, str(label_file), label)
        return case

    def _read_label(self, case: AuditCase, file: str, prepared: Any) -> None:
        made = isinstance(prepared, torch.Tensor) and tuple(prepared.shape[2:]) == tuple(case.image.shape[2:])
        if self.parts.preprocesses_label and made and self.parts.label_masks is None:
            case.label = prepared
            plain = as_plain(prepared)[0].cpu()
            several = plain.shape[0] > 1
            exclusive = several and bool((plain.sum(dim=0) == 1).all())
            values = plain.argmax(dim=0) if exclusive else plain if several else plain[0]
            case.reference = Segmentation(
                values.float().round().to(torch.int32), several and not exclusive, affine_of(case.image)
            )
            return
        read = _read_volume(file)
        values = as_plain(read)[0] if read.shape[0] == 1 else as_plain(read)
        if not bool(torch.isfinite(values.float()).all()) or bool((values != values.round()).any()):
            raise ValueError(f"the label of {case.name} must hold whole numbers, got fractions or NaN.")
        if self.parts.label_masks is not None:
            masks = torch.as_tensor(as_plain(self.parts.label_masks(as_plain(read))))
            read = MetaTensor(masks, affine=affine_of(read))
            values = masks
        case.reference = Segmentation(values.round().to(torch.int32), read.shape[0] > 1, affine_of(read))
        moved = on_grid(case.reference, case.grid).values
        case.label = (moved[None] if read.shape[0] > 1 else moved[None, None]).to(case.image.device)

    def label_values(self, file: str) -> set[int]:
        """The classes of a label file."""
        read = _read_volume(file)
        return {int(value) for value in as_plain(read).unique().tolist()}

    def model_for(self, case: AuditCase) -> AttackedModel:
        """What is attacked, with the further inputs of a case."""
        return self.model.with_arguments(*case.arguments)

    def deploy(self, case: AuditCase, image: torch.Tensor | None = None) -> Segmentation:
        """What the deployed model makes of an image: inferer, network and postprocessing, one forward pass.

        Args:
            case: that the image is of.
            image: as ``case.image``; None for it.

        Raises:
            ValueError: for an image with other channels than the cases before it, and a network that answers NaN to a
                clean image.
        """
        given = case.image if image is None else _in_the_kind_of(image, case.image)
        model = self.model_for(case)
        args, kwargs = case.arguments
        predictor = Predictor(model, given, model.units_for(None))
        channels = int(case.image.shape[1])
        if self._channels is None:  # once: what the network's answer means
            self._look(model, case)
            self._channels = channels
        elif channels != self._channels:
            raise ValueError(f"the image of {case.name} has {channels} channels, other cases have {self._channels}.")
        inferer: Callable[..., Any] = model.inferer or SimpleInferer()
        with held_still(unwrap(model.network)) as network, torch.inference_mode(False), torch.no_grad():
            seen = (
                given if model.image_units == "network" or predictor.intensity is None else predictor.intensity(given)
            )
            answer = inferer(seen, network, *args, **kwargs)
        picked = _picked(model, answer)
        if image is None and isinstance(picked, torch.Tensor) and not bool(torch.isfinite(picked).all()):
            raise ValueError(f"the network's answer to the clean image of {case.name} holds NaN or infinite values.")
        if self.postprocessing is None:
            return self._read(model, picked, case)
        batch = {**case.batch, self.parts.image_key: given}
        output = {self.parts.image_key: given, self.parts.pred_key: answer}
        label = case.batch.get(self.parts.label_key)
        output |= {} if label is None else {self.parts.label_key: label}
        items, outputs = decollate_batch(batch), decollate_batch(output)
        _, made = engine_apply_transform(items[0], outputs[0], self.postprocessing)
        found = made[self.parts.pred_key]
        if not isinstance(found, torch.Tensor):
            found = torch.as_tensor(found)
        return self._read(model, found[None], case)

    def _look(self, model: AttackedModel, case: AuditCase) -> None:
        """Read the first answer: number of classes, logits or probabilities, softmax or sigmoid."""
        predictor = Predictor(model, case.image, model.units_for(None))
        with torch.inference_mode(False), torch.no_grad(), frozen(predictor.networks):
            predictor.read_clean(model.image_part(detached(case.image)))
        classes = model.found_classes or 1
        organ_channels(classes, model.activation_of(classes), model.class_names, model.scored_classes)

    def _read(self, model: AttackedModel, answer: torch.Tensor, case: AuditCase) -> Segmentation:
        """The segmentation in a tensor (1, channel, spatial...): class map, one-hot, masks or logits."""
        own = affine_of(answer)
        plain = as_plain(answer)[0].detach().cpu()
        affine = affine_of(case.image) if own is None else own
        whole = not plain.is_floating_point() or bool((plain == plain.round()).all())
        if plain.shape[0] == 1:
            values = plain[0] if whole else plain[0] > (0.5 if self._is_probability(plain) else 0.0)
            return Segmentation(values.to(torch.int32), affine=affine)
        activation = model.activation_of(int(plain.shape[0]))
        if activation == "softmax":
            return Segmentation(plain.argmax(dim=0).to(torch.int32), affine=affine)
        masks = plain > (0.5 if whole or self._is_probability(plain) else 0.0)
        return Segmentation(masks.to(torch.int32), True, affine)

    @staticmethod
    def _is_probability(plain: torch.Tensor) -> bool:
        return bool(plain.min() >= 0) and bool(plain.max() <= 1)

    def reference_of(self, case: AuditCase, like: Segmentation) -> Segmentation | None:
        """The label on the grid of a prediction."""
        if case.reference is None:
            return None
        if not same_grid(case.reference, like) and case.label is not None:
            if same_grid(case.grid, like):
                return label_on_image(case.label, case.image, case.reference.masks)
        return on_grid(case.reference, like)

    def close(self) -> None:
        """Give back what the reader opened."""
        self.parts.resources.close()


def _picked(model: AttackedModel, answer: Any) -> torch.Tensor:
    picked = model.output
    if callable(picked):
        return picked(answer)
    if picked is not None:
        return answer[picked]
    return answer[0] if isinstance(answer, (list, tuple)) else answer


def _first(image: Any) -> str:
    """The file of an image, the first of several."""
    return str(image[0] if isinstance(image, (list, tuple)) else image)


def _with_recorders(parts: TargetParts) -> Any:
    """The preprocessing of an engine's dataset, which reading the model may have replaced by one that notes maps."""
    live = preprocessing_of(parts.engine)
    if live is None or not isinstance(parts.preprocessing, SeveralFiles):
        return live or parts.preprocessing
    parts.preprocessing.preprocessing = live
    return parts.preprocessing


def _loaded(item: dict[str, Any]) -> dict[str, Any]:
    return {key: _read_volume(file) for key, file in item.items()}


@functools.cache
def _reader() -> Callable[[Any], Any]:
    return Compose([LoadImage(image_only=True), EnsureChannelFirst()])


def _read_volume(file: Any) -> MetaTensor:
    """A file as MONAI reads it, (channel, spatial...).

    Raises:
        RuntimeError: for a file that cannot be read, in one sentence.
    """
    try:
        return _reader()(file)
    except Exception as error:
        if is_nifti(file):
            with contextlib.suppress(TypeError):
                read_back(file)  # says what is wrong with it
        raise RuntimeError(f"cannot read {file}: {cause_of(error)}") from error


def _in_the_kind_of(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """An image as MONAI's pipeline gives it: with affine and applied operations."""
    if not isinstance(like, MetaTensor):
        return as_plain(image).to(like)
    made = like.clone()
    made.copy_(as_plain(image).to(like))
    return made
