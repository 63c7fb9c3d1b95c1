"""The demo: an order-support agent over HTTP and SQL, plain and then speculative.

General layout:
    script.py   what the two scripted stand-in models say, from the messages alone; no I/O
    server.py   the local OpenAI-compatible server that speaks for them, with injected latencies
    shop.py     the SQLite database and the agent's tools
    agent.py    the agents, the questions, and the endpoint that they talk to
    run.py      runs every question plain and speculative, checks, and prints
"""
