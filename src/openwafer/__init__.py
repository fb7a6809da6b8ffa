"""The open Wafer-Scale Cluster."""
