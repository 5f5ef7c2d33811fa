# SPDX-License-Identifier: Apache-2.0
"""The enums behind settings that are a choice among names."""

from enum import StrEnum

# Enum members are matched by *name* on the command line, so name and value are kept equal.


class FamilyKind(StrEnum):
    """The model family: its layers, template and checkpoints."""

    owl3 = "owl3"  # mPLUG-Owl3
    owl2 = "owl2"  # mPLUG-Owl2
    owl1 = "owl1"  # mPLUG-Owl


class TowerKind(StrEnum):
    """The architecture of the vision tower."""

    siglip = "siglip"  # the input of its last layer is the feature
    clip = "clip"  # class token, norms before and after its layers, all of which are run


class PictureFit(StrEnum):
    """How a picture becomes square."""

    pad = "pad"  # with the tower's mean colour
    stretch = "stretch"
    crop = "crop"  # the centre, once the shorter side fits


class ProjectorKind(StrEnum):
    """What projects tower features to the decoder's width."""

    linear = "linear"  # 240728, 241014
    mlp = "mlp"  # 241101: linear, exact GELU, linear
    abstractor = "abstractor"  # mPLUG-Owl2's: learned queries attend to the tile and replace it


class AttentionKind(StrEnum):
    """Which code computes attention over a pack. All give the same results."""

    reference = "reference"  # a dense mask over the pack: for tests
    per_sample = "per_sample"  # torch SDPA, sample by sample: CPU and GPU
    lse_merge = "lse_merge"  # per_sample, but joint_softmax merges an image and a text part
    flex = "flex"  # compiled FlexAttention with a block mask: GPU only


class ModelPart(StrEnum):
    """Parts of a model that are trained or frozen as a whole."""

    vision_tower = "vision_tower"
    projector = "projector"
    language_model = "language_model"
    fusion = "fusion"  # what only media pass through in the decoder


class LoraTarget(StrEnum):
    """Published projections that an adapter can be put on."""

    q = "q"
    k = "k"
    v = "v"
    o = "o"
    gate = "gate"
    up = "up"
    down = "down"
    media_kv = "media_kv"  # the keys and values of media in the decoder, where a family has them
    tower = "tower"  # every projection of the vision tower's layers
    projector = "projector"  # every projection between tower and decoder


class LayerBackend(StrEnum):
    """Which library the linear layers are from."""

    local = "local"  # megatron.core.tensor_parallel
    transformer_engine = "transformer_engine"  # needs the gpu extra


class VisionParallelism(StrEnum):
    """How a tensor-parallel group divides the vision tower."""

    tensor = "tensor"  # every rank holds a slice of each layer
    image = "image"  # each rank holds the complete tower and encodes its share of the tiles


class Precision(StrEnum):
    """Number format of weights and activations; the optimizer keeps float32 for the 16-bit ones."""

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
    """What is done with a sample longer than a pack. Each case is counted under its error code."""

    drop = "drop"
    truncate = "truncate"  # fewer video frames, then leading turns or parts only
    # Hides str.split, which is never called on a policy.
    split = "split"  # type: ignore[assignment]  # as truncate, but a document continues in further samples


class ImageLibrary(StrEnum):
    """Which libraries decode and resize pictures."""

    fast = "fast"  # simplejpeg and torch, Pillow for other formats: within 2 levels of pillow
    pillow = "pillow"  # bit for bit as the published processor; slower


class LiteralPolicy(StrEnum):
    """What is done with text that contains the template's markup, such as `<|image|>` (E206)."""

    reject = "reject"
    escape = "escape"  # kept as plain text, tokenised so that it cannot be taken for markup


class ChangePolicy(StrEnum):
    """What a resumed run does when data, tokenizer, template, budgets or blend have changed."""

    refuse = "refuse"
    next_window = "next_window"  # take up the new plan at its next window, and log what changed


class ScaleKind(StrEnum):
    """How much of an experiment to run: `scale=` picks the YAML file that sets steps and sizes."""

    demo = "demo"
    published = "published"


class Recompute(StrEnum):
    """Which activations are recomputed in the backward pass instead of kept."""

    none = "none"
    selective = "selective"  # core attention only
    full = "full"  # complete layers


class LrDecay(StrEnum):
    """Shape of the learning rate after warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class MetricKind(StrEnum):
    """How answers are scored against references."""

    vqa = "vqa"  # accuracy of VQA: normalised answers of ten annotators
    exact = "exact"  # the reference, letter for letter; case and a last period do not count
    choice = "choice"  # the letter of an option
    caption = "caption"  # CIDEr-D
    yesno = "yesno"  # MME's pairs: accuracy, and accuracy+ of complete pairs


class CommBackend(StrEnum):
    """Which library communicates between processes."""

    auto = "auto"  # nccl with a GPU, else gloo
    nccl = "nccl"
    gloo = "gloo"


class DeviceKind(StrEnum):
    """Which device holds the model."""

    auto = "auto"  # cuda with a GPU, else cpu
    cuda = "cuda"
    cpu = "cpu"


class WandbMode(StrEnum):
    """Whether Weights & Biases sends to its server."""

    online = "online"
    offline = "offline"  # files under the run folder; `wandb sync` sends them later
    disabled = "disabled"
