"""Code → static review → dynamic test: HumanEval, MBPP, and ChatDev's software requirements (SRDD)."""
