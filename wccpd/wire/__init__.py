"""Bytes to WCCPv2 messages and back, nothing else.

"Draft" with a section number is draft-wilson-wrec-wccp-v2-01 and its successor draft-wilson-wrec-wccp-v2-03,
version 2.00; "2.01" with a section number is draft-mclaggan-wccp-v2rev1-00. `messages` is the way in. No
module here knows a socket, a clock or the state of a service group.
"""
