# SPDX-License-Identifier: Apache-2.0
"""What transformers calls the base model: all but the output layer."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""The name of the text's key-value cache: transformers 5.24 renamed past_key_values."""


class OwlBody(nn.Module):
    """A model up to its output layer; holds no weights of its own."""

    _tp_plan = _pp_plan = None  # read by transformers: it splits no layer by itself

    def __init__(self, owner: PreTrainedModel) -> None:
        super().__init__()
        self.owner = owner

    def forward(
        self, *args: Any, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPast:
        """Run the model with the arguments of its own forward but those of logits and loss.

        Returns:
            last_hidden_state [b, q, h], normed: lm_head makes logits of it; the cache; what else
            was requested.
        """
        no_logits = torch.empty(0, dtype=torch.long)
        kwargs |= {"logits_to_keep": no_logits, "output_hidden_states": True, "return_dict": True}
        output = type(self.owner).forward(self.owner, *args, **kwargs)
        return BaseModelOutputWithPast(
            last_hidden_state=output.hidden_states[-1],
            hidden_states=output.hidden_states if output_hidden_states else None,
            attentions=output.attentions,
            **{CACHE: getattr(output, CACHE)},
        )
