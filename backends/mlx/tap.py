"""Tap on the routers of an mlx-lm model that does not slow it.

MLX is lazy: a forward pass only builds a graph, and the next pass is launched before the results of this one are read.
So the hooks evaluate nothing. They keep the arrays that the model routes with, and make the output of the same pass
depend on them, so that they are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from moe_watch.backends.engine import Floats, Ints, RouterOutputs, Unobserved
from moe_watch.backends.mlx.gates import linear_logits, raw_logits
from moe_watch.backends.mlx.hooks import Call, hook
from moe_watch.backends.mlx.layers import MoeLayer, held_experts, moe_layers
from moe_watch.backends.mlx.masks import RouterMasks
from moe_watch.routing.errors import UserError
from moe_watch.routing.header import NO_GATE
from moe_watch.routing.router.gates import UNKNOWN_GATE
from moe_watch.routing.router.masks import ExpertMask


@dataclass(slots=True, eq=False)
class ForwardCapture:
    """Routing of one forward pass per MoE layer, as lazy arrays; None where nothing was captured."""

    experts: list[Any]
    """[..., T, k]"""
    logits: list[Any]
    """[..., T, E], float32"""
    weights: list[Any]
    """[..., T, k], float32: weights of `experts`, if the router returns them."""
    layers: list[int]
    """Model layer index of each entry."""
    norms: list[Any] = field(default_factory=list)
    """[..., T, k], float32: ‖f(x)‖₂ of `experts`, as the container returns them; empty if not requested."""
    off: Mapping[int, Ints] = field(default_factory=dict)
    """Experts that are switched off in this pass, by the position of their layer."""
    observed: bool = True
    """The tap was in place."""

    def arrays(self) -> list[Any]:
        caught = (*self.experts, *self.logits, *self.weights, *self.norms)
        return [array for array in caught if array is not None]

    def read(self, tokens: int) -> RouterOutputs:
        """Return the routing of a pass over `tokens` tokens as NumPy arrays; wait for the pass if needed.

        Only `np.asarray` is used: a new MLX operation would queue behind the pass that is already running.

        Raises:
            UserError: a router output for an expert is not finite, or an expert is selected that is switched off.
        """
        if not self.observed:
            return Unobserved.of(tokens, len(self.experts))
        experts = [_rows(array) for array in self.experts]
        logits = [_rows(array) for array in self.logits]
        self._set_masked(logits, 0.0)
        self._check_numbers(logits)
        self._check_selection(experts)
        self._set_masked(logits, -np.inf)
        return RouterOutputs(
            tokens=tokens,
            experts=experts,
            logits=logits,
            weights=[_rows(array) for array in self.weights] if any(w is not None for w in self.weights) else [],
        )

    def read_norms(self) -> list[Floats | None]:
        """Return the norms of the outputs per MoE layer [T, k] as NumPy arrays; wait for the pass if needed."""
        return [_rows(array) for array in self.norms]

    def _set_masked(self, logits: list[Any], value: float) -> None:
        """Set the logits of masked experts.

        A router with only a weight computes them nevertheless, and a soft cap makes them finite.
        """
        for at, masked in self.off.items():
            if logits[at] is not None:
                logits[at][:, masked] = value

    def _check_selection(self, experts: list[Any]) -> None:
        """Refuse a selection of a masked expert.

        Raises:
            UserError: there is one: fewer than k scores of the other experts are above 0.
        """
        for at, masked in self.off.items():
            chosen = experts[at]
            if chosen is not None and (wrong := np.isin(chosen, masked)).any():
                raise UserError(
                    f"layer {self.layers[at]} selects expert {chosen[wrong][0]}, which is switched off: too few of its "
                    "other experts have a score above 0",
                    advice="switch on some of its experts",
                )

    def _check_numbers(self, logits: list[Any]) -> None:
        """Refuse NaN and ∞: with one such logit no router probability of its layer is known.

        The model itself may still select among the other experts.

        Raises:
            UserError: a logit is not finite.
        """
        rows = [(index, row) for index, row in zip(self.layers, logits, strict=True) if row is not None]
        if not rows or np.isfinite(np.concatenate([row for _, row in rows], axis=-1)).all():
            return
        layer, row = next((index, row) for index, row in rows if not np.isfinite(row).all())
        token, expert = np.argwhere(~np.isfinite(row))[0]
        raise UserError(
            f"the router of layer {layer} outputs {row[token, expert]} for expert {expert}: damaged weights, or an "
            "overflow in their precision",
            advice="try another file of the model, or another precision",
        )


def _rows(array: Any) -> Any:
    return None if array is None else np.array(array).reshape(-1, array.shape[-1])


class RouterTap:
    """Hooks in all MoE layers of a model; `close` removes them, and `open` installs them again.

    Quantize first: quantization replaces the hooked modules. A model without MoE layers gets no hook.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = sorted(moe_layers(model), key=lambda layer: layer.index)
        self._indices = [layer.index for layer in self.layers]
        self._masks = RouterMasks(self.layers)
        self._takes_norms = False
        self.frame = self._new_frame()
        """Capture of the forward pass that was built last."""
        self._model = model
        self._undo: list[Callable[[], None]] = []
        self.open()

    @property
    def gate(self) -> str:
        """Gate of all layers; `UNKNOWN_GATE` if it is not known, or differs between layers; `NO_GATE` without any."""
        if not self.layers:
            return NO_GATE
        gates = {UNKNOWN_GATE if layer.gate is None else str(layer.gate) for layer in self.layers}
        return gates.pop() if len(gates) == 1 else UNKNOWN_GATE

    @property
    def sees_weights(self) -> bool:
        """The pass that was built last captured the weights that the model applies."""
        return any(caught is not None for caught in self.frame.weights)

    def _hook_layer(self, position: int, layer: MoeLayer) -> None:
        if layer.container is not None:
            self._hook(layer.container, _keep_indices(self, position))
            if self._takes_norms:
                self._hook(layer.container, _keep_norms(self, position, layer))
        if layer.gate is None:
            return
        if layer.linear is not None:
            self._hook(layer.linear, _keep_product(self, position, layer))
        if layer.router is not layer.linear:
            self._hook(layer.router, _keep_routes(self, position, layer))

    def _new_frame(self) -> ForwardCapture:
        nothing = [None] * len(self.layers)
        return ForwardCapture(
            nothing.copy(),
            nothing.copy(),
            nothing.copy(),
            self._indices,
            norms=nothing.copy() if self._takes_norms else [],
            off=self._masks.off,
        )

    def open_frame(self) -> ForwardCapture:
        """Begin a forward pass."""
        self.frame = self._new_frame()
        return self.frame

    def _hook(self, module: nn.Module, wrap: Callable[[Call], Call]) -> None:
        self._undo.append(hook(module, wrap))

    def open(self, positions: Collection[int] | None = None) -> None:
        """Install the hooks.

        Args:
            positions: positions of the MoE layers to observe; None observes all.
        """
        if not self.layers:
            return
        for position, layer in enumerate(self.layers):
            if positions is None or position in positions:
                self._hook_layer(position, layer)
        self._hook(self._model, _open_frame(self))

    def observe(self, on: bool) -> None:
        """Turn the tap on or off for passes built from now on. With the tap off, their captures are empty."""
        if on and not self._undo:
            self.open()
        elif not on:
            self.close()
            self.frame = replace(self._new_frame(), observed=False)

    def mask(self, mask: ExpertMask) -> None:
        """Switch these experts off in the passes that are built from now on, and all others on."""
        if mask == self._masks.mask:
            return
        is_open = bool(self._undo)
        self.close()
        self._masks.apply(mask)
        if is_open:
            self.open()

    @contextmanager
    def other_passes(self, mask: ExpertMask, *, observe: bool, norms: bool) -> Iterator[None]:
        """Build passes that are not of the run: with another mask, and with or without observation.

        Without observation, layers with a masked expert are hooked nevertheless, so that `ForwardCapture.read` checks
        their selection. Afterwards, hooks, mask and `frame` are as before.

        Args:
            mask: experts that are switched off.
            observe: observe all layers.
            norms: keep the norms of the experts' outputs, too.
        """
        frame, before, is_open = self.frame, self._masks.mask, bool(self._undo)
        self.close()
        try:
            self._takes_norms = norms
            if mask != before:
                self._masks.apply(mask)
            if observe or self._masks.off:
                self.open(None if observe else self._masks.off)
            else:
                self.frame = replace(self._new_frame(), observed=False)
            yield
        finally:
            self.close()
            self._takes_norms = False
            if mask != before:
                self._masks.apply(before)
            if is_open:
                self.open()
            self.frame = frame

    def close(self) -> None:
        """Remove all hooks from the model. Masks are kept."""
        while self._undo:
            self._undo.pop()()


def _open_frame(tap: RouterTap) -> Callable[[Call], Call]:
    """Return a wrapper for the whole model: one capture per forward pass, computed together with its output."""

    def wrap(call: Call) -> Call:
        def hooked(module: Any, *args: Any, **options: Any) -> Any:
            frame = tap.open_frame()
            return mx.depends(call(module, *args, **options), frame.arrays())

        return hooked

    return wrap


def _keep_indices(tap: RouterTap, position: int) -> Callable[[Call], Call]:
    """Return a wrapper for an expert container that keeps the expert indices."""

    def wrap(call: Call) -> Call:
        def hooked(module: Any, x: Any, indices: Any, *args: Any, **options: Any) -> Any:
            if tap.frame.experts[position] is None:  # indices that the router returned have priority
                tap.frame.experts[position] = indices
            return call(module, x, indices, *args, **options)

        return hooked

    return wrap


def _keep_norms(tap: RouterTap, position: int, layer: MoeLayer) -> Callable[[Call], Call]:
    """Return a wrapper for an expert container that keeps ‖f(x)‖₂ of the outputs [..., k, d] that it returns."""
    held = held_experts(layer.container)

    def wrap(call: Call) -> Call:
        def hooked(module: Any, x: Any, indices: Any, *args: Any, **options: Any) -> Any:
            outputs = call(module, x, indices, *args, **options)
            norms = mx.linalg.norm(outputs.astype(mx.float32), axis=-1)
            if layer.experts > held:  # experts that return their input are not in the container
                of_input = mx.linalg.norm(x.astype(mx.float32), axis=-1, keepdims=True)
                norms = mx.where(tap.frame.experts[position] < held, norms, of_input)
            tap.frame.norms[position] = norms
            return outputs

        return hooked

    return wrap


def _keep_product(tap: RouterTap, position: int, layer: MoeLayer) -> Callable[[Call], Call]:
    """Return a wrapper for the linear module of a router that keeps its output as logits.

    They are cast in the graph of the pass, because NumPy has no bfloat16.
    """

    def wrap(call: Call) -> Call:
        def hooked(module: Any, *args: Any, **options: Any) -> Any:
            product = call(module, *args, **options)
            logits = tap.frame.logits[position] = linear_logits(layer.family, layer.router, product)
            if layer.container is None:
                tap.frame.experts[position] = _top(logits, layer.experts_per_token)
            return product

        return hooked

    return wrap


def _top(logits: Any, count: int) -> Any:
    """Return the selection of a family without indices: by probability, as its code does, so that ties are equal."""
    return mx.argpartition(-mx.softmax(logits, axis=-1), kth=count - 1, axis=-1)[..., :count]


def _keep_routes(tap: RouterTap, position: int, layer: MoeLayer) -> Callable[[Call], Call]:
    """Return a wrapper for a router with a linear module, or with only a weight, that keeps its routes and logits."""

    def wrap(call: Call) -> Call:
        def hooked(module: Any, x: Any, *args: Any, **options: Any) -> Any:
            routes = call(module, x, *args, **options)
            if layer.linear is None:
                tap.frame.logits[position] = raw_logits(layer.family, module, x)
            if isinstance(routes, tuple) and layer.returns_applied:
                tap.frame.experts[position], tap.frame.weights[position] = routes[0], routes[1].astype(mx.float32)
            return routes

        return hooked

    return wrap
