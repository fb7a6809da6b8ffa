"""The management node over HTTP: routes, users, streams that follow a job, the OpenAPI document, TLS.

Service(node, users, Listen(port=8470), version).run(...)
"""

from openwafer.appliance._views import Cluster, Submission
from openwafer.appliance.web._app import make_app
from openwafer.appliance.web._export import write_archive
from openwafer.appliance.web._service import Listen, Service

__all__ = ["Cluster", "Listen", "Service", "Submission", "make_app", "write_archive"]
