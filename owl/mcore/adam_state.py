# SPDX-License-Identifier: Apache-2.0
"""Save and load the distributed optimizer when its AdamW is torch's.

torch keeps `step` in each parameter's state; TE and apex keep it in the parameter group, and
megatron-core 0.16.1 half expects the one and half the other: saving asserts on a rank without
parameters, loading raises KeyError 'step' on a fresh optimizer, and after loading all parameters
share one step tensor, so that a step counts once per parameter. `TorchAdamState` fixes all three.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer import ChainedOptimizer, DistributedOptimizer
from torch import Tensor

_TORCH_OPTIMIZERS = (torch.optim.AdamW, torch.optim.SGD)


class TorchAdamState(DistributedOptimizer):
    """DistributedOptimizer with a state_dict that works for torch.optim.AdamW."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything except per-parameter tensors; all ranks call this together."""
        self._fill_state()
        step = self._common_step()
        groups = self.optimizer.state_dict()["param_groups"]
        state: dict[str, Any] = {
            "optimizer": {
                "param_groups": [
                    {key: value for key, value in group.items() if key != "params"} | {"step": step}
                    for group in groups
                ]
            }
        }
        if self.grad_scaler:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what state_dict returned, and the per-parameter tensors with it.

        The groups of parameters, and so their rates, are this run's: the tensors have names.
        """
        inner = state_dict["optimizer"]
        (step,) = {group["step"] for group in inner["param_groups"]}
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "step": step}
            for group in self.optimizer.param_groups
        ]
        super().load_state_dict({**state_dict, "optimizer": {**inner, "param_groups": groups}})
        for state in self.optimizer.state.values():
            state["step"] = state["step"].clone()

    def _set_main_param_and_optimizer_states(
        self, model_param: Tensor, tensors: dict[str, Tensor]
    ) -> None:
        group, order = self.model_param_group_index_map[model_param]
        main = self.optimizer.param_groups[group]["params"][order]
        step = self.optimizer.state[main]["step"]
        super()._set_main_param_and_optimizer_states(model_param, {"step": step, **tensors})

    def _copy_model_grads_to_main_grads(self) -> None:
        """Pass float64 weights their gradients unchanged: the original casts them to float32."""
        groups = zip(self.model_fp32_groups, self.shard_fp32_groups, strict=True)
        pairs = [pair for group in groups for pair in zip(*group, strict=True)]
        if not any(parameter.dtype == torch.float64 for parameter, _ in pairs):
            super()._copy_model_grads_to_main_grads()
            return
        for parameter, main in pairs:
            share = self._get_model_param_range_map(parameter)["param"]
            main.grad = parameter.main_grad.view(-1)[share.start : share.end]

    def _fill_state(self) -> None:
        """Give a new optimizer the state that its first step would start from."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state[parameter]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)

    def _common_step(self) -> float:
        """Return the updates so far: the largest of all ranks, as a rank may hold no parameter."""
        steps = [float(state["step"]) for state in self.optimizer.state.values()]
        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        step = torch.tensor(max(steps, default=0.0), device=device)
        dist.all_reduce(step, dist.ReduceOp.MAX)
        return float(step)


def adopt(optimizer: Any) -> None:
    """Turn the distributed optimizers in Megatron's chain into TorchAdamState, where needed."""
    parts = optimizer.chained_optimizers if isinstance(optimizer, ChainedOptimizer) else [optimizer]
    for part in parts:
        if type(part) is DistributedOptimizer and isinstance(part.optimizer, _TORCH_OPTIMIZERS):
            part.__class__ = TorchAdamState
