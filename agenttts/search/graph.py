"""The search as a LangGraph StateGraph: its nodes and the edges between them.

seed → validate → (approve) → evaluate → reflect → propose → validate → … → confirm → finish. The nodes are in
`steps` and `confirm`. The state has the step and why the search ends; the store is the one source of truth,
and a resumed search goes through the same graph, taking stored decisions instead of deciding again.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from agenttts.search import confirm
from agenttts.search import steps as nodes
from agenttts.search.state import SearchState, SearchWork

SearchGraph = CompiledStateGraph[SearchState, SearchWork, SearchState, SearchState]


def build_graph() -> SearchGraph:
    """Build and compile the graph, whose context is a SearchWork."""
    graph: StateGraph[SearchState, SearchWork, SearchState, SearchState] = StateGraph(
        SearchState, context_schema=SearchWork
    )
    steps: dict[str, Any] = {
        "seed": nodes.seed,
        "validate": nodes.validate,
        "approve": nodes.approve,
        "evaluate": nodes.evaluate_step,
        "reflect": nodes.reflect,
        "propose": nodes.propose,
        "confirm": confirm.confirm,
        "finish": confirm.finish,
    }
    for name, node in steps.items():
        graph.add_node(name, node)
    graph.add_edge(START, "seed")
    graph.add_edge("seed", "validate")
    graph.add_conditional_edges("validate", nodes.after_validate, ["approve", "evaluate", "confirm"])
    graph.add_edge("approve", "evaluate")
    graph.add_conditional_edges("evaluate", nodes.after_evaluate, ["reflect", "confirm"])
    graph.add_edge("reflect", "propose")
    graph.add_edge("propose", "validate")
    graph.add_edge("confirm", "finish")
    graph.add_edge("finish", END)
    return graph.compile()
