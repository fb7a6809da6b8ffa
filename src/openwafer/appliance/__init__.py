"""The management node of a cluster that many jobs share: takes jobs, queues, starts and watches them, and keeps their files.

    ManagementNode(NodeConfig(folder=..., systems=2))  .submit(JobSpec(...)) -> Job  .job  .changed  .cancel  .log  .events

A job is a command with resources and a folder. What the command does is the business of whoever submits it; it tells the node
what there is to tell by lines in its folder's events.jsonl. Jobs run in processes that live on when the node dies, and the
next node takes them over.
"""

from openwafer.appliance._config import COMPILE_ROOT, NodeConfig
from openwafer.appliance._engine import Command, Engine, Host, Outcome
from openwafer.appliance._folder import JobFolder
from openwafer.appliance._job import FINAL, Ending, Job, JobState, new_id
from openwafer.appliance._local import LocalEngine
from openwafer.appliance._node import ManagementNode
from openwafer.appliance._queue import Amounts
from openwafer.appliance._settle import TRY_AGAIN
from openwafer.appliance._spec import DEFAULT_PRIORITY, JobKind, JobSpec, Spread, parse_priority

__all__ = [
    "COMPILE_ROOT",
    "DEFAULT_PRIORITY",
    "FINAL",
    "TRY_AGAIN",
    "Amounts",
    "Command",
    "Ending",
    "Engine",
    "Host",
    "Job",
    "JobFolder",
    "JobKind",
    "JobSpec",
    "JobState",
    "LocalEngine",
    "ManagementNode",
    "NodeConfig",
    "Outcome",
    "Spread",
    "new_id",
    "parse_priority",
]
