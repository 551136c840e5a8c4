"""tau2-bench's telecom domain (arXiv:2506.07982; sierra-research/tau2-bench, MIT), native: a carrier's database and its tools,
a customer's phone and its tools, the policy, a customer played by another model, and the reward.

tools      what agent and customer may call: names, descriptions and schemas, as the model is shown them
carrier    the agent's side: customers, lines, plans, bills
phone      the customer's side: a telephone, its surroundings, what works and what does not
world      both, kept in step; calls, initial states, assertions, replays
talk       agent, customer and world take turns; the reward of what came of it
"""
