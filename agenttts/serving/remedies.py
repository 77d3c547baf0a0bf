"""Why servers do not fit a machine, and what would make them fit: each remedy is tried before it is named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from agenttts.errors import UserError
from agenttts.serving.machine import GB, Gpu, machine_text, parse_gpus
from agenttts.serving.needs import Need
from agenttts.serving.placement import USABLE_SHARE, place, usable_bytes

_MOST_SUBSETS = 3000
_MACHINES = ("1x24", "1x48", "1x80", "1x141", "2x80", "2x141", "4x80", "4x141", "8x80", "8x141", "8x192")
_CONTEXTS = (16384, 8192, 4096)


class DoesNotFit(UserError):
    """Servers do not fit a machine.

    Attributes:
        needs: The servers.
        gpus: The machine.
    """

    def __init__(
        self, needs: Sequence[Need], gpus: Sequence[Gpu], stages: Sequence[Collection[str]] = ()
    ) -> None:
        """Try the remedies.

        Args:
            needs: The servers.
            gpus: The machine.
            stages: The models of each stage, one of which is to remain when servers are left out.
        """
        self.needs = tuple(needs)
        self.gpus = tuple(gpus)
        remedies = "; or ".join(_remedies(needs, gpus, stages)) or "use more or larger GPUs"
        super().__init__(f"{_arithmetic(needs, gpus)}; {remedies}")


def needed_text(need: Need, gpu: Gpu) -> str:
    """Return what a server needs at least, unsplit, as the sum of its parts in GB.

    Args:
        need: The server.
        gpu: The GPU.
    """
    bytes_ = need.gpu_bytes(gpu, 1, 1)
    weights, cache, own = (f"{part / GB:.1f}" for part in (bytes_.weights, bytes_.cache, bytes_.own))
    return f"{need.name} {weights} + {cache} + {own}"


def _arithmetic(needs: Sequence[Need], gpus: Sequence[Gpu]) -> str:
    usable = sum(usable_bytes(gpu) for gpu in gpus) / GB
    least = sum(need.gpu_bytes(gpus[0], 1, 1).total for need in needs) / GB
    servers = ", ".join(needed_text(need, gpus[0]) for need in needs)
    fixed = [need for need in needs if need.fixed_share is not None or len(need.splits) == 1]
    note = " and with what serve_args fix" if fixed else ""
    return (
        f"{len(needs)} servers do not fit {machine_text(gpus)}, where {usable:.0f} GB can be used "
        f"({USABLE_SHARE:g} of each GPU): unsplit{note} they need {least:.0f} GB (weights + KV cache of one "
        f"full context + vLLM's own: {servers})"
    )


def _remedies(needs: Sequence[Need], gpus: Sequence[Gpu], stages: Sequence[Collection[str]]) -> Iterator[str]:
    """What would fit, the nearest first."""
    subset = _largest_subset(needs, gpus, stages)
    if subset:
        left_out = ", ".join(need.name for need in needs if need not in subset)
        yield f"leave out {left_out}, in the stages too: {_only(subset)} (or --run for what a run found)"
    for tokens in _CONTEXTS:
        if all(need.sequence_tokens <= tokens for need in needs):
            shorter = [replace(need, context_tokens=min(tokens, need.context_tokens)) for need in needs]
            if place(shorter, gpus, 1) is not None:
                yield f"a context_length of {tokens} at most"
                break
    for bits in (8, 4):
        if place([_quantised(need, bits) for need in needs], gpus, 1) is not None:
            yield f"weights of {bits} bits: a quantised checkpoint as path"
            break
    groups = _groups(needs, gpus)
    if groups is not None and len(groups) > 1:
        one_by_one = ", then ".join(_only(group) for group in groups)
        yield (
            f"one group at a time: {one_by_one} (by vLLM's --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1 "
            "a group sleeps and wakes in seconds)"
        )
    machine = next((name for name in _MACHINES if place(needs, parse_gpus(name), 1) is not None), None)
    if machine is not None:
        yield f"a machine of {machine}"


def _only(needs: Sequence[Need]) -> str:
    return " ".join(f"--only {need.name}" for need in needs)


def _largest_subset(
    needs: Sequence[Need], gpus: Sequence[Gpu], stages: Sequence[Collection[str]]
) -> list[Need]:
    """The most servers that fit and leave each stage a model; of as many, those with the most weights."""
    served = {name for need in needs for name in need.hosted.models}
    of_stages = [names for stage in stages if (names := served.intersection(stage))]
    n_tried = 0
    for n_kept in range(len(needs) - 1, 0, -1):
        fitting: list[tuple[float, list[Need]]] = []
        for chosen in combinations(needs, n_kept):
            models = {name for need in chosen for name in need.hosted.models}
            if any(models.isdisjoint(names) for names in of_stages):
                continue
            n_tried += 1
            if n_tried > _MOST_SUBSETS:
                return []
            if place(chosen, gpus, 1) is not None:
                fitting.append((sum(need.size.weights_bytes for need in chosen), list(chosen)))
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
    return []


def _quantised(need: Need, bits: int) -> Need:
    """The server with weights of that many bits, where they have 16."""
    if need.size.is_quantised:
        return need
    size = replace(need.size, weights_bytes=need.size.weights_bytes * bits / 16)
    return replace(need, size=size)


def _groups(needs: Sequence[Need], gpus: Sequence[Gpu]) -> list[list[Need]] | None:
    """The servers in groups that fit by themselves, first-fit-decreasing; None when one never fits."""
    groups: list[list[Need]] = []
    for need in sorted(needs, key=lambda need: -need.size.weights_bytes):
        group = next((group for group in groups if place([*group, need], gpus, 1) is not None), None)
        if group is not None:
            group.append(need)
        elif place([need], gpus, 1) is None:
            return None
        else:
            groups.append([need])
    return groups
