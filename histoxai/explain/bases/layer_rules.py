"""Base of methods with a rule for each step of a network: LRP and DeepLIFT.

Their rules (propagation.py) run on a traced copy of the network. Before any work a probe patch is explained in float64:
the copy must give the network's own logits, and attributions must add up. A network that fails is refused. The error of
the sum is stored beside every map.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from histoxai.core.errors import InputRefused, is_out_of_memory
from histoxai.explain.bases.method import Map, RawSpec
from histoxai.explain.bases.packing import Step
from histoxai.explain.bases.path import completeness_error
from histoxai.explain.bases.sampling import Sampling
from histoxai.explain.bases.tracing import INSTEAD, copied_around, traced, weights_of

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from histoxai.explain.bases.propagation import Attributed, Propagation
    from histoxai.explain.network import Network

# Largest error of a probe's sum in float64: a share of the total, of the absolute sum of attributions, of the logit.
OF_TOTAL, OF_ABSOLUTE, OF_LOGIT = 1e-4, 1e-8, 1e-12


class LayerRules(Sampling):
    """A method whose rules give attributions and the total that they add up to; each patch is one row of a pass."""

    family = "gradient"
    library_package = "captum"
    passes = "1 forward + backward"
    # Name of the check that stores the error of the sum.
    sum_check: ClassVar[str]

    @abstractmethod
    def rules(self, graph: fx.GraphModule) -> Propagation:
        """The method's rules on a traced network."""

    @abstractmethod
    def captum_attributions(self, module: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> Any:
        """captum's attributions, on a copy in layers that captum has rules for; None if it lacks some."""

    def raw_specs(self, net: Network, size: tuple[int, int]) -> dict[str, RawSpec]:
        """Also raises InputRefused if a step has no rule, or attributions of a probe patch do not add up."""
        self._probe(net, size)
        return super().raw_specs(net, size)

    def _probe(self, net: Network, size: tuple[int, int]) -> None:
        import torch

        probes = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).double().to(net.device)
        try:
            double = copied_around(net.exact, weights_of(net.exact, torch.float64))
            with torch.no_grad():
                logits = double(probes)
            found = self.rules(traced(double, self.name)).attribute(probes, logits.abs().argmax(dim=1))
        except (TypeError, RuntimeError, AttributeError, AssertionError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            why = str(error).splitlines()[0][:120]
            message = f"{self.name}: this network has a step that its rules fail on ({why}); {INSTEAD}"
            raise InputRefused(message) from error
        self._raise_unless_right(found, logits)

    def _raise_unless_right(self, found: Attributed, logits: torch.Tensor) -> None:
        largest = logits.abs().amax(dim=1)
        total, values = found.total, found.values.flatten(1)
        allowed = OF_TOTAL * total.abs() + OF_ABSOLUTE * values.abs().sum(dim=1) + OF_LOGIT * largest
        if not bool(((found.logits - logits).abs().amax(dim=1) <= OF_TOTAL * largest).all()):
            what = "belong to other logits on a probe patch: a step mixes patches, or changes values that another reads"
        elif not bool(((values.sum(dim=1) - total).abs() <= allowed).all()):  # NaN is not right either
            what = f"add up to {float(values[0].sum()):.4g} in place of {float(total[0]):.4g} on a probe patch"
        else:
            return
        raise InputRefused(f"{self.name}: this network has attributions that {what}; {INSTEAD}")

    def prepare(self) -> None:
        self.rows = 1

    def perturb(self, i: int) -> torch.Tensor:
        return self.image

    def step(self, net: Network) -> Step:
        """Attributions of each patch in a row, and behind them the total and the target's logit."""
        import torch

        from histoxai.explain.network import of_targets

        rules = self.rules(traced(net.exact, self.name))

        def rows(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            found = rules.attribute(x, targets)
            logit = of_targets(found.logits, targets)
            ends = torch.stack([found.total.to(logit.dtype), logit], dim=1)
            return torch.cat([found.values.flatten(1), ends], dim=1)

        return rows

    def reduce(self, outputs: torch.Tensor) -> Map:
        total, logit = outputs[0, -2:].tolist()
        values = outputs[0, :-2].float().view(self.image.shape).numpy()
        return Map({"": values}, self.checks_of(values, total, logit))

    def checks_of(self, values: np.ndarray, total: float, logit: float) -> dict[str, float]:
        """The method's checks of a map, from what it should add up to and the target's logit."""
        del logit
        return {self.sum_check: completeness_error(values, total)}

    def library(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> dict[str, np.ndarray] | None:
        """captum's attribution of one patch alone, on a copy in layers that captum has rules for; None if it cannot."""
        import torch

        from histoxai.explain.network import quiet_library

        with quiet_library():
            found = self.captum_attributions(module, image[None].clone(), torch.tensor([target], device=image.device))
        return None if found is None else {"": found[0].detach().cpu().numpy()}

    def library_map(self, module: nn.Module, image: torch.Tensor, target: int, seed: int) -> Map:
        """The library's map; the total that it should add up to is that of histoxai's rules."""
        import torch

        result = super().library_map(module, image, target, seed)
        targets = torch.tensor([target], device=image.device)
        found = self.rules(traced(module, self.name)).attribute(image[None], targets)
        total, logit = float(found.total[0]), float(found.logits[0, target])
        return Map(result.raw, self.checks_of(result.raw[""], total, logit))
