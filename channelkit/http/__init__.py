"""What a handler gets and gives: Request, Response and the forms a response may take."""

from channelkit.http.headers import HeaderInput as HeaderInput
from channelkit.http.headers import Headers as Headers
from channelkit.http.headers import MultiMapping as MultiMapping
from channelkit.http.headers import has_header as has_header
from channelkit.http.headers import header_lines as header_lines
from channelkit.http.request import Address as Address
from channelkit.http.request import BodySource as BodySource
from channelkit.http.request import Request as Request
from channelkit.http.request import RequestData as RequestData
from channelkit.http.response import Body as Body
from channelkit.http.response import Response as Response
from channelkit.http.response import check_status as check_status
from channelkit.http.response import is_body as is_body
from channelkit.http.response import reject as reject
from channelkit.http.response import to_response as to_response
from channelkit.http.response import whole as whole
