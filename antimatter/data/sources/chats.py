"""Chats that people export from Telegram and ChatGPT: each becomes one text, its messages in order
with blank lines between them.

    Telegram    {name, messages: [{from, text}]}, or {chats: {list: [...]}} around several.
                A text may be a list of texts and of objects with one, such as links
    ChatGPT     [{title, current_node, mapping: {id: {parent, message}}}], where a message is
                {author: {role}, content: {parts}}
"""

from collections.abc import Iterator
from typing import Any

from antimatter.data.sources.columns import in_parts
from antimatter.data.sources.json_rows import Row


def joined(rows: Iterator[Row]) -> Iterator[Row]:
    """Rows, of which each that is a chat has become its text."""
    for row in rows:
        inner = _at(row.value, "chats", "list")
        if isinstance(inner, list) and all(map(_is_telegram, inner)):
            for number, chat in enumerate(inner, 1):
                yield Row(number, "row", _telegram(chat), row.size // len(inner))
        elif _is_telegram(row.value):
            yield row._replace(value=_telegram(row.value))
        elif isinstance(_at(row.value, "mapping"), dict) and "title" in row.value:
            yield row._replace(value=_chatgpt(row.value))
        else:
            yield row


def _at(value: Any, *keys: str) -> Any:
    """What is in nested objects, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_telegram(value: Any) -> bool:
    messages = _at(value, "messages")
    if not isinstance(messages, list):
        return False
    return any(isinstance(one, dict) and {"from", "text"} <= one.keys() for one in messages)


def _telegram(chat: dict[str, Any]) -> str:
    texts = (in_parts(_at(message, "text")) for message in chat["messages"])
    return "\n\n".join(text for text in texts if isinstance(text, str) and text.strip())


def _chatgpt(chat: dict[str, Any]) -> str:
    """The messages from the first to the current one: an edited message has others beside it."""
    nodes, name, path = chat["mapping"], chat.get("current_node"), list[Any]()
    while name in nodes and len(path) < len(nodes):
        path.append(nodes[name])
        name = _at(nodes[name], "parent")
    texts = []
    for node in reversed(path) if path else nodes.values():
        if _at(node, "message", "author", "role") in ("user", "assistant"):
            parts = _at(node, "message", "content", "parts")
            texts += [one for one in parts or () if isinstance(one, str) and one.strip()]
    return "\n\n".join(texts)
