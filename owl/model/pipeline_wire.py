# SPDX-License-Identifier: Apache-2.0
"""What travels between pipeline stages: hidden states, and image features for those who need them.

megatron-core sends one tensor of decoder width from stage to stage and its gradient back. Image
features have that width too, so they are appended to the hidden states, [t + m * p, 1, h], and
their gradient returns the same way: pictures are encoded once, on the first stage. A stage after
which no layer looks at media does not send them.
"""

import torch
from torch import Tensor


def join(hidden_states: Tensor, media_features: Tensor | None) -> Tensor:
    """Append image features to hidden states for the next stage.

    Args:
        hidden_states: [t, 1, h].
        media_features: [m * p, 1, h], or None when no later stage looks at images.
    """
    if media_features is None:
        return hidden_states
    return torch.cat([hidden_states, media_features])


def split(wire: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
    """Undo `join`; the second part is empty where no features were sent.

    Args:
        wire: what the previous stage sent.
        num_tokens: t.
    """
    # Not by slices, whose gradients would each be as long as the wire.
    hidden_states, media_features = wire.split([num_tokens, len(wire) - num_tokens])
    return hidden_states, media_features
