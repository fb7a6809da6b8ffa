"""The code of client jobs, run confined: pickled data pipelines as batches by number, and initial values as tensors.

    pipeline = Pipeline(builder=request_bytes, arguments=more_bytes)
    confinement = confine(python, mounts=["/data/set"], volumes=["/data"])
    with ClientBatches(pipeline, tensors, rows=[32, 32], python=python, confinement=confinement, log=print) as source:
        Coordinator(job, source.batches, processes=True)

    pickles --> Worker (_worker.py) --> sandbox: _client_worker.py under the client's interpreter --> dill, loader
                  ^ frames, all checked             | batches
                  +---- Slots (_slots.py) <---------+ sealed shared memory

`initial_values` computes tensors that a client describes (graphs, functions of its own) by the same way.

No byte of a pickle is loaded outside of the sandbox, and nothing that comes out of it is believed: batches have the sizes and
dtypes that the program declares because we read them so, states are kept and given back unread.
"""

from openwafer.compat.inputs._pipeline import CACHE, Pipeline, TensorSpec, confine
from openwafer.compat.inputs._source import ClientBatches, Waits
from openwafer.compat.inputs._values import InitialValue, initial_values

__all__ = [
    "CACHE",
    "ClientBatches",
    "InitialValue",
    "Pipeline",
    "TensorSpec",
    "Waits",
    "confine",
    "initial_values",
]
