"""Retrieve → answer: multi-hop questions over about 100 candidate texts (HotpotQA, 2WikiMultiHopQA)."""
