#!/usr/bin/env bash
# torch 2.13.0 (CPU): a program of torch.export that holds a .to(dtype) cannot run under autocast. Export writes a check
# of the type that the tensor had then in front of every .to(); autocast makes that tensor bfloat16, and the check
# raises, although the cast that follows would have taken either. The model that was exported runs under autocast, and
# so does the same program without the .to(). Tools that run networks in mixed precision (inference engines, MONAI's
# SupervisedEvaluator with amp=True) meet it with networks that cast their output. pytorch/pytorch's issue 151001 tells
# the same of programs that are cast after export.
#
# Seen: "model under autocast: torch.float32; exported under autocast: RuntimeError, Tensor dtype mismatch! Expected:
# Float, Got: c10::BFloat16; exported without autocast: torch.float32; exported without .to(), under autocast:
# torch.bfloat16". Fails when that changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
fi
"$PYTHON" - <<'PYTHON'
import torch


class Network(torch.nn.Module):
    def __init__(self, cast):
        super().__init__()
        self.convolution, self.cast = torch.nn.Conv3d(1, 2, 3, padding=1), cast

    def forward(self, image):
        logits = self.convolution(image)
        return logits.to(torch.float32) if self.cast else logits


@torch.no_grad()
def outcome(network, autocast):
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return str(network(image).dtype)
    except RuntimeError as error:
        return f"RuntimeError, {str(error).splitlines()[0]}"


image = torch.rand(1, 1, 8, 8, 8)
model = Network(cast=True).eval()
exported, plain = (torch.export.export(network, (image,)).module() for network in (model, Network(cast=False).eval()))
eager, under, without, uncast = (
    outcome(model, True),
    outcome(exported, True),
    outcome(exported, False),
    outcome(plain, True),
)
print(f"model under autocast: {eager}; exported under autocast: {under}; exported without autocast: {without}; "
      f"exported without .to(), under autocast: {uncast}")
assert eager == without == "torch.float32" and uncast == "torch.bfloat16"
assert under.startswith("RuntimeError, Tensor dtype mismatch"), "the behavior has changed"
PYTHON
