"""`hb-run --batch`: many videos by one command, on this machine's devices or a cluster's.

jobs.py               the file of jobs: what is refused before any work begins
body.py               what a job asks for
results.py            the folder: videos, and a line for each that is finished
crew.py               workers take tasks; what a dead one was making goes to another
worker.py             what a worker is told, and what it does
local.py, worker_process.py     a process of this machine
cluster.py, node.py             an actor on a node of a Ray cluster
command.py            puts them together
"""
