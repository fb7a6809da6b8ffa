"""The gRPC protocol of the vendor's training client: unmodified programs train on this appliance.

    with ClientDoor(node, who_is, port=9000) as door:     # beside a management node
        ...                                               # programs: ClusterConfig(mgmt_address=door.address)

    client --> ClientDoor: Management, Csctl (_management.py, _csctl.py) --> appliance.ManagementNode: jobs
      |                                                                        | a process for each job
      +------> Coordinator (_coordinator.py) in the job's own process <--------+ python -m openwafer.compat.appliance
                 compile: cirh --> Plan --> compile/cs_<hash>/
                 execute: weights --> checkpoint --> cluster.Coordinator, batches from compat.inputs --> outputs, weights

The message classes come from the installed `cerebras_appliance` wheel. A call that is not served answers UNIMPLEMENTED with its
name.
"""

from openwafer.compat.appliance._callers import Caller, client_token
from openwafer.compat.appliance._door import PORT, ClientDoor
from openwafer.compat.appliance._wheel import wheel

__all__ = ["PORT", "Caller", "ClientDoor", "client_token", "wheel"]
