"""The titles that the numbers cite, once each. docs/facts.md lists what each of them is."""

from __future__ import annotations

from typing import Final

# vendor
SDK_DOCS: Final = "Cerebras SDK documentation"
SIMD_DOCS: Final = "Cerebras SDK documentation, SIMD appendix"
SDK_EXAMPLES: Final = "csl-examples, SDK 1.4.0"
SDK_MATVEC: Final = "csl-examples, single-tile-matvec README"
SDK_TOPIC_13: Final = "csl-examples, topic-13 README (simulator log)"
SC24: Final = "Cerebras SDK slides, SC24"
HC34: Final = "Hot Chips 34 coverage, 2022"
JAMES: Final = "Cerebras blog, M. James, 2021-09-14"
MEMORYX_2021: Final = "MemoryX and SwarmX announcement, 2021"
CS3_LAUNCH: Final = "CS-3 launch, 2024"
CG1: Final = "Condor Galaxy 1 announcement, 2023-07"
WHITEPAPER: Final = "Cerebras weight streaming whitepaper"
WSC: Final = "Wafer-Scale Cluster data sheet"
IO_MATERIAL: Final = "Cerebras system specifications; IEEE Micro"
ISPD: Final = "ISPD 2020 contest description"

# press and users
ANANDTECH: Final = "AnandTech 16626, 2021"
TOMS_CS1: Final = "Tom's Hardware, CS-1 launch, 2019"
TOMS: Final = "Tom's Hardware, WSE-3 launch, 2024"
TOMS_ANDROMEDA: Final = "Tom's Hardware and EnterpriseAI, 2022-11"
TWEAKERS: Final = "Tweakers, CS-1, 2019-11"
XPU: Final = "XPU.pub, 2024-03-18"
NEXTPLATFORM: Final = "The Next Platform, 2024-03-14"
SURVEYS: Final = "The Next Platform and survey pages on the WSE-2"
AIWIRE: Final = "AIwire, Sandia run, 2024-12"
ALCF: Final = "ALCF user guides, Cerebras overview"
ALCF_CSL: Final = "ALCF user guides, csl.md"

# papers and measurements
HPDC: Final = "HPDC 2024, wafer-scale reduce (arXiv 2404.15888)"
SERIES_F: Final = "third-party measurement, series F"
SERIES_FL: Final = "third-party measurements, series F and L"
WAFERLLM: Final = "WaferLLM code"
WAFERENGINE: Final = "WaferEngine, public notes"
TOTAL: Final = "TotalEnergies stencil run in the SC24 SDK slides, p. 20"

HERE: Final = "arithmetic"
