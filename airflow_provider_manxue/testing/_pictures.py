"""
The two H.264 pictures (320x180, constrained baseline) of every video of the emulator.

Encoded with the ffmpeg of the PyPI package ``imageio-ffmpeg``::

    ffmpeg -f lavfi -i smptebars=s=320x180:r=10 -frames:v 2
           -vf "drawbox=x=140:y=70:w=40:h=40:color=white:t=fill:enable='eq(n,0)',
                drawbox=x=140:y=70:w=40:h=40:color=black:t=fill:enable='eq(n,1)'"
           -c:v libx264 -profile:v baseline -level 1.3 -pix_fmt yuv420p -crf 32
           -x264-params keyint=1:scenecut=0:aud=0:repeat-headers=1
           -bsf:v filter_units=remove_types=6 -f h264 pictures.h264

and split at the start codes. Both are IDR pictures with different ``idr_pic_id``, so they may alternate any number
of times. They show colour bars with a square in the middle, once white and once black.
"""

from __future__ import annotations

from base64 import b64decode

WIDTH, HEIGHT = 320, 180

SEQUENCE_PARAMETERS = b64decode("Z0LADdwUGfnwFqBAQKgAAAMACAAAAwCgeKFc")

PICTURE_PARAMETERS = b64decode("aM4GSyA=")

WHITE_SQUARE = b64decode(
    "ZYiEBLyYoAAjvSf/D/gsBFL7iASzYHIZrkOQzXJYSwEQRlgAE44ABaOycZBMA4XZ0wQAAqCRAACQfByANiDkAbEHEAmIOIBMCIJx"
    "QADscDHyf+H/gsBIX3iAAGgPEVgchGuQ5CNcnhPARBKKBo4ABaTiIKAcAIvEAAEAcAaIAAICIAEiIKY4GOBk/h//DQJJf3xAADQA"
    "LERQOQzXMOQzXMsMsIiCUUDHaTjIJgHCzAVMEAAKgACANEAAJAAFg5AGxg5AGxBxAJjBxAJiIgnjsdk666enrp6eunp66enrpgkb"
    "TBLXMwTepgnrrrp6eunp66enrp6eunp66enrrrp6eunp66enrp6eunp66enrrrp6eunp6/ww/2CwFHA8DEZBWZBWNoEefPJcNiBG"
    "U+eS4Ng6qj7XxAP/sFUJZCCWJgS3bMdCYgI7Tu88tBMUwU109PXT09dddPT109PXMwUWpgprmYKrUwV109PXT09dddPT109PX+H/"
    "iwXAo4OgREqFq4ELqtcAi7au0dZVzrbh/j9gqgCgC4EXXa/AhLXPPTBTXT09dPT1//H+CQFQoAB/xAADIEQlprC+GlM+tfrUKzXg"
    "eYrkPMVy9zqp1Fr/DHxhBdrhEzIILu0HIDYiAWIOgTEHhsHV6ZNf/HgAYLoNJoL9C7pEhXJSVz3A8iuHVrPa//DhwSxQPoQABEMQ"
    "Sdb2vD8eAcFuDoSnPCWkB5iuboXgdIdzaK7Xh+PAOC0kUAA9wOASUDi8HIDY4OgTHOti1miQcABEwQAAsBUIF01hdQETdx761/wr"
    "TYchmueWH/x+GC4UByAwiD5VfJDj9w7q3//DgqgIgfcQCxweGxtf/EMPBbig8MYoTLxAsd//8A4LBL8LtMPIVzw8RLnOtz/x8YQX"
    "Yt4B88GJXOaH/8A4RIB8wgq6NUmv/wwAMF1/yIK7nw6Itz//AcA4IB8/wpgP3d/3v/v/hgAUCEIP33zQVx2paWZgszpmC2Ox2lpa"
    "eZRQGOx9r//+wRggsV3TMEIoDElGBtbWOQaDKmVr9a+lVZ1x2Cjpla/WvuG76665mCzVMFtddPT1zMEF6YIa66666666666enrrp"
    "6eunp666666668A="
)

BLACK_SQUARE = b64decode(
    "ZYiCAT8mKAAJHkn/w/4LARQe/iASzYHIYlyHIYlyWEsBEEZYAAgMRwBj5OMgmAcCUhUwQAAuDRAACgLg4QdiDhB2IOIAmIOIAmCQ"
    "TigGT/w/8FgJBD/EAANAeIrA5CNchyEa5PCeAiCUUAaOAAYk4iCgHAAj8QAAQCwA0QAAQFwAGiIKY4BpP4f/wVgkiH4gABoAFiIo"
    "HIZrmHIZrmWGWERBKKAMdpOMgmAcCQgHTBAAC4AAgGRAACgAAgCwcIOxg4QdiDiAJjBxAExEQTigGOAY+Trrp6eunrrp6eunp66e"
    "nrp6euuunp66euunp66enrp6eunp6666enrp666enrp6eunp66enrrrp6eunrr/D/7BYCjgdBCsgrMgiYZIEZnzyXDYgJRSb7yXB"
    "sC1LleNP9TXa+IB/9gqhLIQQmJgJhnTzy0JiAjLTXeeWgmKYKa6enrp6euuunp66euuZgo0szBTHAMfS09PXT09dPT11109PXT11"
    "/h/4sFwKODwZEWoBHgEXertcAiO2rtC1dIv/xJNeH+P2CqKUALgIa1h1+AkFNfeemCmunp66enr/+P8EgKhQABAD8QAA6AiEmjra"
    "F8NKZ9a/WoRMyKoHjJch4yXL3OtrX+GPjCC7XCC7sEBKUkHIA2IPDYg4gJiDwbB1X9r/48ADBdBoXQfQrakREuSkrnuB5CuHVc86"
    "2/+HDgligH0IAAqCGGtbXh+PAOC3B0EpxrCWkB4yXMl3N4HRFuZ0U2Va8Px4BwWkigACAFwOATUJM8HIA2ODiAmOdVjzraaJBwAC"
    "I2CAAGgKhAumsLqAibuPfWv+ETI4w5DEueWH/x+GC4UByAYZB8qz5IcfuHe///DgqgIgVcQCxweGxnVeRf8Qw8FuKDxBJBqzECx3"
    "//wDgtEvwu5h5CueHiJc51UiOv+PjCC7E1OAfPBiVzmh//AOCQj8D5hBd2a2v/w4cF1+gBJdz4cRFuf/4BgGwQD5v/8OAcEG3/+G"
    "AaI0EknzQWx2O0tLMwWZ0zBaKAAWjsfa1zMFjy4YB/7BEC1eerimCC7+h0M0EIoBhnOExja2sdDQUUxWv1r6z9aw4B/8PaeSG7Wu"
    "uuZgs1TBbXXMwWepgtrp6euuuuuoYVQzXXXXT09ddPT109PXXXXXXXXg"
)
