"""The nodes of a stage: each is one example with the upstream outputs that matter from the stage on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from pipelines.examples import Example
from pipelines.jsonvalues import JSON
from pipelines.spec.pipeline import PipelineSpec

Node = TypeVar("Node")


class NodeIndex(Generic[Node]):
    """Numbers the nodes of a stage in the order in which they come up.

    Args:
        spec: The pipeline.
        position: Which of its stages.
        make: Makes a node of an example and of the outputs that this stage or a later one reads.

    Attributes:
        nodes: By number.
    """

    def __init__(
        self, spec: PipelineSpec, position: int, make: Callable[[Example, Mapping[str, JSON]], Node]
    ) -> None:
        self.nodes: list[Node] = []
        self._needed = {name for later in spec.stages[position:] for name in later.input_names}
        self._make = make
        self._numbers: dict[str, int] = {}

    def number(self, example: Example, outputs: Mapping[str, JSON]) -> int:
        """Return the number of a node, which is added when it is new.

        Args:
            example: The example.
            outputs: The outputs of the stages before, by name; those that nothing reads any more are left
                out.
        """
        inputs = {name: value for name, value in outputs.items() if name in self._needed}
        key = f"{example.id}\0{inputs!r}"  # values are JSON-able: repr tells any two apart
        if key not in self._numbers:
            self._numbers[key] = len(self.nodes)
            self.nodes.append(self._make(example, inputs))
        return self._numbers[key]
