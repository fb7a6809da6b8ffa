"""The dashboard: a live page of the cluster and of each job, and what the page asks the node for.

    dashboard = Dashboard(node, version)    dashboard.board(user, Filter(...))  .job(user, job)  .series(job, points)
    dashboard_routes(node, dashboard, guarded, find)    page()    read_timeline(path)    JobNumbers(dashboard, user)

Measured numbers come from the jobs' processes and from what their runs write; predictions come from their plans, and the two
are never shown as one.
"""

from openwafer.appliance.dashboard._numbers import JobNumbers
from openwafer.appliance.dashboard._page import Page, page
from openwafer.appliance.dashboard._routes import dashboard_routes
from openwafer.appliance.dashboard._timeline import TimelineView, read_timeline
from openwafer.appliance.dashboard._views import BoardView, Dashboard, Filter, JobView, SeriesView

__all__ = [
    "BoardView",
    "Dashboard",
    "Filter",
    "JobNumbers",
    "JobView",
    "Page",
    "SeriesView",
    "TimelineView",
    "dashboard_routes",
    "page",
    "read_timeline",
]
