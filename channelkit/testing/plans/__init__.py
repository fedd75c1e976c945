"""Plans: what two endpoints and the network between them are to do (`plan`), and one run of such a plan (`run`).

`run_plan` serves one channel by the plan's script, with a quiet second one beside it (G12), under virtual time, and
writes down what every side saw (`trace`).  It judges nothing: that is `oracle`.  It draws nothing: that is
`strategies`.

The server's script (`director`) runs in a task of its own beside the handler (`application`), the peer's (`actor`) in
another.  When both are through, the epilogue ends the channel if it still lives, and waits until everything is over.
"""

from channelkit.testing.plans.plan import TRANSPORTS as TRANSPORTS
from channelkit.testing.plans.plan import VIOLATIONS as VIOLATIONS
from channelkit.testing.plans.plan import Await as Await
from channelkit.testing.plans.plan import Cancel as Cancel
from channelkit.testing.plans.plan import Close as Close
from channelkit.testing.plans.plan import Ending as Ending
from channelkit.testing.plans.plan import Goodbye as Goodbye
from channelkit.testing.plans.plan import Limits as Limits
from channelkit.testing.plans.plan import Manner as Manner
from channelkit.testing.plans.plan import Network as Network
from channelkit.testing.plans.plan import Pause as Pause
from channelkit.testing.plans.plan import PeerPing as PeerPing
from channelkit.testing.plans.plan import PeerStep as PeerStep
from channelkit.testing.plans.plan import Plan as Plan
from channelkit.testing.plans.plan import Say as Say
from channelkit.testing.plans.plan import Send as Send
from channelkit.testing.plans.plan import SendPing as SendPing
from channelkit.testing.plans.plan import SendWrong as SendWrong
from channelkit.testing.plans.plan import ServerStep as ServerStep
from channelkit.testing.plans.plan import Style as Style
from channelkit.testing.plans.plan import TransportName as TransportName
from channelkit.testing.plans.plan import Violate as Violate
from channelkit.testing.plans.run import run_plan as run_plan
from channelkit.testing.plans.serving import PUMPS as PUMPS
from channelkit.testing.plans.serving import Pump as Pump
from channelkit.testing.plans.serving import Server as Server
from channelkit.testing.plans.serving import serving as serving
from channelkit.testing.plans.trace import Moment as Moment
from channelkit.testing.plans.trace import Operation as Operation
from channelkit.testing.plans.trace import Trace as Trace
