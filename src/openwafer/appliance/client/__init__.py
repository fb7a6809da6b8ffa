"""Asks an appliance over its REST interface; needs nothing of the cluster's own packages.

with Client(Contact.find()) as client:  client.submit(spec)  client.jobs()  client.follow_log(id)
"""

from openwafer.appliance.client._client import Client
from openwafer.appliance.client._contact import Contact

__all__ = ["Client", "Contact"]
