"""Retrieve triples → answer: questions over about 100 triples of a graph (ComplexWebQuestions, WebQSP)."""
