"""What the hardware is: frozen data, where every number carries its unit, grade and source.

    Quantity     a value with unit, grade (published, measured, derived, assumed), source and its
                 entry in docs/facts.md; derived ones keep their formula and parts
    Contested    values that contradict each other, with a recommended one and the reason
    Wafer        WSE1, WSE2, WSE3           Extent, ClockModel, Pe, Link
    System       CS1, CS2, CS3              HostLink
    Cluster      ANDROMEDA, CONDOR_GALAXY_1, CONDOR_GALAXY_1_PHASE_1, ALCF_CS3, MAX_CS2, MAX_CS3
                                            MemoryX, SwarmX, NodeGroup

`int(WSE2.fabric.width)` is 757; `WSE2.clock.default_hz.text` is `850 MHz`; its `alternatives` hold
1.1 GHz. A report prints the grade of each number that it used.
"""

from openwafer.machine._catalog import MACHINES, facts_of, find_machine, part_of, quantities_of
from openwafer.machine._clusters import (
    ALCF_CS3,
    ANDROMEDA,
    CONDOR_GALAXY_1,
    CONDOR_GALAXY_1_PHASE_1,
    MAX_CS2,
    MAX_CS3,
    MEMORYX_CS2,
    MEMORYX_CS3,
)
from openwafer.machine._parts import (
    ClockModel,
    Cluster,
    Extent,
    HostLink,
    Link,
    Machine,
    MemoryX,
    NodeGroup,
    Pe,
    SwarmX,
    System,
    Wafer,
)
from openwafer.machine._quantity import (
    Contested,
    Fact,
    Grade,
    Quantity,
    assumed,
    contested,
    derive,
    measured,
    published,
)
from openwafer.machine._systems import CS1, CS2, CS3
from openwafer.machine._wse1 import WSE1
from openwafer.machine._wse2 import WSE2
from openwafer.machine._wse3 import WSE3

__all__ = [
    "ALCF_CS3",
    "ANDROMEDA",
    "CONDOR_GALAXY_1",
    "CONDOR_GALAXY_1_PHASE_1",
    "CS1",
    "CS2",
    "CS3",
    "MACHINES",
    "MAX_CS2",
    "MAX_CS3",
    "MEMORYX_CS2",
    "MEMORYX_CS3",
    "WSE1",
    "WSE2",
    "WSE3",
    "ClockModel",
    "Cluster",
    "Contested",
    "Extent",
    "Fact",
    "Grade",
    "HostLink",
    "Link",
    "Machine",
    "MemoryX",
    "NodeGroup",
    "Pe",
    "Quantity",
    "SwarmX",
    "System",
    "Wafer",
    "assumed",
    "contested",
    "derive",
    "facts_of",
    "find_machine",
    "measured",
    "part_of",
    "published",
    "quantities_of",
]
