# SPDX-License-Identifier: Apache-2.0
"""Every attention backend gives the numbers of the reference, and none looks across samples."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from owl.config.run import AttentionKind
from owl.families.owl3.config import HyperAttentionConfig
from owl.model.attention.backend import attention_backend
from owl.model.media import PackContext, pack_context
from tests.tiny_run import tiny_model
from tests.unit.model.packs import PLACES, Place, make_pack, places

REFERENCE = attention_backend(AttentionKind.reference)
PER_SAMPLE = attention_backend(AttentionKind.per_sample)
LSE_MERGE = attention_backend(AttentionKind.lse_merge)
BACKENDS = pytest.mark.parametrize(
    "backend", [REFERENCE, PER_SAMPLE, LSE_MERGE], ids=["ref", "per_sample", "lse_merge"]
)
CALLS = pytest.mark.parametrize("call", ["text", "media", "joint"])
HEADS = st.sampled_from([(4, 2), (2, 2), (3, 1), (6, 2)])
HEAD_DIM, PATCHES = 4, 4


def context(samples: list[Place], *, shift: int = 1) -> PackContext:
    model = replace(tiny_model(), hyper_attention=HyperAttentionConfig(media_position_shift=shift))
    return pack_context(make_pack(samples), model, torch.float64)


def heads_for(
    samples: list[Place], *, heads: int = 4, kv_heads: int = 2
) -> tuple[torch.Tensor, ...]:
    """Random query, key, value, media_key, media_value."""
    generator = torch.Generator().manual_seed(1)
    tokens = sum(length for length, _ in samples)
    patches = PATCHES * sum(len(offsets) for _, offsets in samples)
    counts = [(tokens, heads), *[(tokens, kv_heads)] * 2, *[(patches, kv_heads)] * 2]
    return tuple(
        torch.randn(*count, HEAD_DIM, generator=generator, dtype=torch.float64).requires_grad_()
        for count in counts
    )


def attend(backend, call: str, heads: tuple[torch.Tensor, ...], pack: PackContext) -> torch.Tensor:
    query, key, value, media_key, media_value = heads
    if call == "text":
        return backend.text(query, key, value, pack)
    if call == "media":
        return backend.media(query, media_key, media_value, pack)
    return backend.joint(*heads, pack)


@pytest.mark.parametrize(
    ("backend", "call"),
    # What lse_merge does not do by itself it hands to per_sample.
    [(PER_SAMPLE, "text"), (PER_SAMPLE, "media"), (PER_SAMPLE, "joint"), (LSE_MERGE, "joint")],
    ids=["text", "media", "joint", "joint-lse_merge"],
)
@settings(max_examples=40)
@given(samples=places(), shift=st.integers(0, 1), counts=HEADS)
def test_a_backend_equals_the_reference_forward_and_backward(backend, call, samples, shift, counts):
    pack = context(samples, shift=shift)
    heads = heads_for(samples, heads=counts[0], kv_heads=counts[1])

    actual = attend(backend, call, heads, pack)
    expected = attend(REFERENCE, call, heads, pack)
    upstream = torch.randn(expected.shape, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(
            (out * upstream).sum(), heads, allow_unused=True, materialize_grads=True
        )
        if out.requires_grad
        else [torch.zeros_like(part) for part in heads]
        for out in (actual, expected)
    ]

    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


@BACKENDS
@CALLS
@settings(max_examples=20)
@given(samples=places(), shift=st.integers(0, 1))
def test_attention_weights_are_where_the_predicate_allows_them_and_nowhere_else(
    backend, call, samples, shift
):
    pack = context(samples, shift=shift)

    weights = attention_weights(backend, call, samples, pack)

    allowed = visibility(call, pack)
    assert torch.equal(weights > 0, allowed)
    torch.testing.assert_close(weights.sum(1), allowed.any(1).double(), rtol=0, atol=1e-14)


def visibility(call: str, pack: PackContext) -> torch.Tensor:
    """The predicate, key by key: [t, keys] bool."""
    media = pack.media_visibility().repeat_interleave(PATCHES, dim=1)
    if call == "joint":
        return torch.cat([media, pack.text_visibility()], dim=1)
    return media if call == "media" else pack.text_visibility()


def attention_weights(backend, call: str, samples: list[Place], pack: PackContext) -> torch.Tensor:
    """Expand what a backend does to [t, keys], by values that name their keys."""
    tokens, patches = len(pack.position_ids), PATCHES * len(pack.media_position)
    keys = tokens * (call != "media") + patches * (call != "text")
    generator = torch.Generator().manual_seed(2)
    query, key, media_key = (
        torch.randn(count, 1, max(keys, 1), generator=generator, dtype=torch.float64)
        for count in (tokens, tokens, patches)
    )
    names = torch.eye(keys, max(keys, 1), dtype=torch.float64)[:, None]
    media_value, value = (names[:patches], names[patches:]) if call == "joint" else (names, names)
    return attend(backend, call, (query, key, value, media_key, media_value), pack)[:, 0, :keys]


@BACKENDS
def test_text_attention_is_that_of_each_sample_alone(backend):
    heads, pack = heads_for(PLACES), context(PLACES)
    query, key, value, _, _ = (part.transpose(0, 1) for part in heads)

    packed = attend(backend, "text", heads, pack)

    for view in pack.samples:
        alone = F.scaled_dot_product_attention(
            query[:, view.rows], key[:, view.rows], value[:, view.rows],
            is_causal=True, enable_gqa=True,
        )  # fmt: skip
        torch.testing.assert_close(packed[view.rows], alone.transpose(0, 1), rtol=0, atol=1e-12)


@BACKENDS
def test_a_row_attends_to_exactly_the_patches_it_sees(backend):
    samples = [(4, [1, 2])]  # with shift 1, seen from tokens 2 and 3
    heads, pack = heads_for(samples, heads=2, kv_heads=1), context(samples)
    query, _, _, key, value = heads

    media = attend(backend, "media", heads, pack)

    assert torch.equal(media[:2], torch.zeros_like(media[:2]))
    for row, seen in [(2, PATCHES), (3, 2 * PATCHES)]:
        scores = query[row] @ key[:seen, 0].T / HEAD_DIM**0.5
        expected = scores.softmax(-1) @ value[:seen, 0]
        torch.testing.assert_close(media[row], expected, rtol=0, atol=1e-12)


@BACKENDS
def test_a_query_head_reads_the_key_value_head_of_its_group(backend):
    samples = [(3, [0])]
    query, key, value, media_key, media_value = heads_for(samples, heads=4, kv_heads=2)
    one_group = [part[:, 1:] for part in (key, value, media_key, media_value)]

    whole = backend.joint(query, key, value, media_key, media_value, context(samples))
    group = backend.joint(query[:, 2:], *one_group, context(samples))

    torch.testing.assert_close(whole[:, 2:], group, rtol=0, atol=1e-12)


@BACKENDS
def test_one_softmax_covers_visible_patches_and_earlier_tokens(backend):
    samples = [(3, [0])]
    heads, pack = heads_for(samples, heads=1, kv_heads=1), context(samples, shift=0)
    query, key, value, media_key, media_value = (part[:, 0] for part in heads)

    joint = attend(backend, "joint", heads, pack)

    keys, values = torch.cat([media_key, key[:2]]), torch.cat([media_value, value[:2]])
    expected = (query[1] @ keys.T / HEAD_DIM**0.5).softmax(-1) @ values
    torch.testing.assert_close(joint[1, 0], expected, rtol=0, atol=1e-12)


@BACKENDS
def test_rows_that_see_nothing_are_zero_and_so_are_their_gradients(backend):
    samples = [(3, []), (2, [1]), (4, [2])]  # the second tile lies past its sample's end
    heads, pack = heads_for(samples), context(samples)

    media = attend(backend, "media", heads, pack)
    gradients = torch.autograd.grad(media.sum(), [heads[0], heads[3], heads[4]])

    blind = ~pack.sees_media
    assert blind.tolist() == [True] * 8 + [False]
    assert torch.equal(media[blind], torch.zeros_like(media[blind]))
    assert torch.equal(gradients[0][blind], torch.zeros_like(media[blind]))
    assert all(gradient.isfinite().all() for gradient in gradients)
    unseen_tile = slice(0, PATCHES)
    assert not gradients[1][unseen_tile].any()
    assert not gradients[2][unseen_tile].any()


@BACKENDS
@CALLS
def test_a_pack_without_tiles_works(backend, call):
    samples = [(3, []), (2, [])]
    heads, pack = heads_for(samples), context(samples)

    out = attend(backend, call, heads, pack)

    assert out.shape == heads[0].shape
    if call == "media":
        assert not out.any()
    else:
        torch.testing.assert_close(out, attend(REFERENCE, "text", heads, pack))


class _AttentionCalls(TorchFunctionMode):
    """Notes the tokens, keys and mask elements of every call of torch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int, int]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            sizes = args[0].shape[-2], args[1].shape[-2], 0 if mask is None else mask.numel()
            self.sizes.append(sizes)
        return func(*args, **kwargs)


@CALLS
@settings(max_examples=40)
@given(samples=places(), shift=st.integers(0, 1))
def test_per_sample_attention_never_spans_two_samples(call, samples, shift):
    heads, pack = heads_for(samples), context(samples, shift=shift)

    with _AttentionCalls() as calls:
        attend(PER_SAMPLE, call, heads, pack)

    limits = [
        (length, length * (call != "media") + PATCHES * len(offsets) * (call != "text"))
        for length, offsets in samples
    ]
    masked = sum(mask for _, _, mask in calls.sizes)
    assert masked <= sum(tokens * keys for tokens, keys in limits)
    for tokens, keys, mask in calls.sizes:
        assert any(tokens <= most_tokens and keys <= most for most_tokens, most in limits)
        assert mask in (0, tokens * keys)


def test_rows_after_the_last_tile_need_no_mask():
    samples = [(9, [0])]

    with _AttentionCalls() as calls:
        attend(PER_SAMPLE, "media", heads_for(samples), context(samples))

    assert calls.sizes == [(8, PATCHES, 0)]
