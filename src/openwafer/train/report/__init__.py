"""What a training run leaves behind: its folder, lines, metrics, TensorBoard events and pictures.

    RunFolder.create(path, config)  ->  Reporter(folder, total_steps)  .step  .evaluation  .finish
    spans of the roles  ->  Timeline  ->  timeline.json, timeline.png
    metrics.jsonl  ->  read_metrics, loss_picture

Nothing here computes a training step, and no failure here but a full disk ends one.
"""

from openwafer.train.report._folder import RunFolder
from openwafer.train.report._loss_picture import loss_picture
from openwafer.train.report._metrics import Metrics, MetricsFile, read_metrics
from openwafer.train.report._rate import RateTracker
from openwafer.train.report._reporter import Reporter
from openwafer.train.report._reports import EvalReport, StepReport
from openwafer.train.report._timeline import Timeline

__all__ = [
    "EvalReport",
    "Metrics",
    "MetricsFile",
    "RateTracker",
    "Reporter",
    "RunFolder",
    "StepReport",
    "Timeline",
    "loss_picture",
    "read_metrics",
]
