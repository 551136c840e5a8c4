"""Terminal-Bench tasks: a model at a terminal, then tests.

screen    a program on a pseudo-terminal, and what stands on its screen
place     where a task's commands run: a container, or this machine's sandbox
terminus  the agent: the published Terminus 2 prompts and its loop
task      a task's folder, and what its tests said
"""
