# SPDX-License-Identifier: Apache-2.0
"""Every setting that is a choice among names."""

from enum import StrEnum

# Enum members are matched by *name* on the command line, so name and value are kept equal.


class FamilyKind(StrEnum):
    """Whose layers, template and checkpoints a model has."""

    owl3 = "owl3"  # mPLUG-Owl3


class ProjectorKind(StrEnum):
    """What carries tower features to the decoder's width."""

    linear = "linear"  # 240728, 241014
    mlp = "mlp"  # 241101: linear, exact GELU, linear
    abstractor = "abstractor"  # mPLUG-Owl2's: learned queries read the tile and stand for it


class AttentionKind(StrEnum):
    """Which code computes attention over a pack. All give the same numbers."""

    reference = "reference"  # dense masks for the whole pack: for tests
    per_sample = "per_sample"  # torch SDPA, sample by sample: CPU and GPU
    lse_merge = "lse_merge"  # per_sample, but joint_softmax merges an image and a text part
    flex = "flex"  # compiled FlexAttention with a block mask: GPU only


class LayerBackend(StrEnum):
    """Where linear layers come from."""

    local = "local"  # megatron.core.tensor_parallel
    transformer_engine = "transformer_engine"  # needs the gpu extra


class VisionParallelism(StrEnum):
    """How a tensor-parallel group shares the vision tower."""

    tensor = "tensor"  # every rank holds a slice of each layer
    image = "image"  # every rank holds the whole tower and encodes its share of the tiles


class Precision(StrEnum):
    """Number format of weights and activations. The optimizer keeps float32 where it is lower."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # with a dynamic loss scaler
    fp64 = "fp64"  # for parity tests


class CutPolicy(StrEnum):
    """Whether single pictures are cut into a grid of tiles plus a global view."""

    off = "off"
    on = "on"
    published = "published"  # as in SFT: text-rich 100 %, other single pictures 20 %, several 0 %


class OversizePolicy(StrEnum):
    """What becomes of a sample that is longer than a pack. Each case is counted by its code."""

    drop = "drop"
    truncate = "truncate"  # fewer video frames, then leading turns or parts only
    # Hides str.split, which nobody calls on a policy.
    split = "split"  # type: ignore[assignment]  # as truncate, but a document goes on in further samples


class ImageLibrary(StrEnum):
    """What turns the bytes of a picture into tiles."""

    fast = "fast"  # simplejpeg and torch, Pillow for what they cannot read: within 2 levels of it
    pillow = "pillow"  # decodes and resizes, as the published processor: the same bits, slower


class LiteralPolicy(StrEnum):
    """What becomes of text that contains the template's own markup, such as `<|image|>` (E206)."""

    reject = "reject"
    escape = "escape"  # kept as plain text, tokenised so that it can never pass for the markup


class ChangePolicy(StrEnum):
    """What a resumed run does when data, tokenizer, template, budgets or blend have changed."""

    refuse = "refuse"
    next_window = "next_window"  # go on with the new plan at its next window, and log what changed


class ScaleKind(StrEnum):
    """How much of an experiment to run: `scale=` picks the file that sets these amounts."""

    demo = "demo"
    published = "published"


class Recompute(StrEnum):
    """Which activations are recomputed in the backward pass instead of kept."""

    none = "none"
    selective = "selective"  # core attention only
    full = "full"  # whole layers


class LrDecay(StrEnum):
    """Shape of the learning rate after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class CommBackend(StrEnum):
    """What carries collectives between processes."""

    auto = "auto"  # nccl where a GPU is, else gloo
    nccl = "nccl"
    gloo = "gloo"


class DeviceKind(StrEnum):
    """Where tensors live."""

    auto = "auto"  # cuda where a GPU is, else cpu
    cuda = "cuda"
    cpu = "cpu"


class WandbMode(StrEnum):
    """Whether Weights & Biases talks to its server."""

    online = "online"
    offline = "offline"  # files under the run folder; `wandb sync` sends them later
    disabled = "disabled"
