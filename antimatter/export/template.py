"""How a conversation becomes the text that the model continues: written once, in the two languages that the runtimes speak.

The model is a pretrained base model: it continues text, it answers nobody. So a prompt is the system text, if any, and the turns, with a blank line
between them, and the answer is what the model writes next. No role marks: the model never saw any. No [BOS]: the tokenizer puts it (add_bos_token),
and a second one here would be one too many. `antimatter.serve.prompt.render` says the same in Python; a test holds the three together.
"""

SEPARATOR = "\n\n"
JINJA = "{% for message in messages %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ message['content'] }}{% endfor %}"  # llama.cpp
GO = '{{ range $i, $message := .Messages }}{{ if $i }}{{ "\\n\\n" }}{{ end }}{{ $message.Content }}{{ end }}'  # Ollama; system comes first there
