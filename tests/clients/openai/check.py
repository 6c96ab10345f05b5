"""OpenAI's client for Python against a server of this tree, whose agent `echo` says back what it is sent and whose
agent `puppet` does what it is told. Each check fails with the words of the assertion."""

import os

import openai

client = openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key=os.environ["KEY"], max_retries=0)
hello = [{"role": "user", "content": "hello"}]


def say(text):
    return '[{"say": "%s"}]' % text


def models():
    assert [model.id for model in client.models.list()] == ["echo", "puppet"]
    assert client.models.retrieve("echo").owned_by == "default"


def chat():
    answer = client.chat.completions.create(model="echo", messages=hello, temperature=0.2, max_tokens=10)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello", "stop")
    assert answer.usage.total_tokens == 0
    chunks = list(
        client.chat.completions.create(
            model="puppet",
            messages=[{"role": "user", "content": '[{"say": "one "}, {"commit": ["x", "y"]}, {"say": "two"}]'}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert words == ["", "one ", "two", None], words
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 0
    with client.chat.completions.stream(model="echo", messages=hello) as stream:
        stream.until_done()
        assert stream.get_final_completion().choices[0].message.content == "hello"


def session():
    session = "py"
    raw = client.chat.completions.with_raw_response
    first = raw.create(model="echo", messages=hello)
    assert first.headers["x-antiphon-session"].startswith("s-")
    headers = {"x-antiphon-session": first.headers["x-antiphon-session"]}
    again = raw.create(model="echo", messages=hello, extra_headers=headers)
    assert again.headers["x-antiphon-session"] == headers["x-antiphon-session"], session
    key = {"Idempotency-Key": "a-key-of-python"}
    one = client.chat.completions.create(model="echo", messages=hello, extra_headers=key)
    two = client.chat.completions.create(model="echo", messages=hello, extra_headers=key)
    assert one == two


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code, error
        return error
    raise AssertionError("it was not refused: " + code)


def errors():
    create = client.chat.completions.create
    error = refused(openai.NotFoundError, "model_not_found", lambda: create(model="none", messages=hello))
    assert error.param == "model"
    refused(openai.BadRequestError, "unsupported_value", lambda: create(model="echo", messages=hello, n=2))
    other = client.with_options(api_key="wrong")
    refused(openai.AuthenticationError, "invalid_key", lambda: other.chat.completions.create(model="echo", messages=hello))
    failing = [{"role": "user", "content": '[{"say": "shown"}, {"fail": "no idea"}]'}]
    # It may try twice more, and does not: the message was taken.
    patient = client.with_options(max_retries=2).chat.completions
    refused(openai.InternalServerError, "turn_failed", lambda: patient.create(model="puppet", messages=failing))
    seen = []

    def stream():
        for chunk in create(model="puppet", messages=failing, stream=True):
            seen.append(chunk.choices[0].delta.content)

    refused(openai.APIError, "turn_failed", stream)
    assert seen == ["", "shown"]


def responses():
    made = client.responses.create(model="echo", input="hello", instructions="be brief", metadata={"a": "b"})
    assert (made.status, made.output_text, made.metadata) == ("completed", "hello", {"a": "b"})
    assert client.responses.retrieve(made.id) == made
    after = client.responses.create(model="echo", input="and on", previous_response_id=made.id)
    assert (after.output_text, after.previous_response_id) == ("and on", made.id)
    script = '[{"say": "one "}, {"commit": ["x", "y"]}, {"say": "two"}]'
    events = list(client.responses.create(model="puppet", input=script, stream=True))
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["one ", "two"]
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    id = events[0].response.id
    for at, event in enumerate(events):
        rest = client.responses.retrieve(id, stream=True, starting_after=event.sequence_number)
        assert list(rest) == events[at + 1 :]
    with client.responses.stream(model="echo", input="hello") as stream:
        assert stream.get_final_response().output_text == "hello"
    background = client.responses.create(model="echo", input="later", background=True)
    assert background.status in ("queued", "in_progress", "completed")
    with client.responses.stream(response_id=background.id) as stream:
        assert stream.get_final_response().output_text == "later"
    assert client.responses.retrieve(background.id).output_text == "later"
    assert client.responses.cancel(background.id).status == "completed"
    client.responses.delete(background.id)
    refused(openai.APIStatusError, "session_gone", lambda: client.responses.retrieve(background.id))
    refused(openai.NotFoundError, "response_not_found", lambda: client.responses.retrieve("resp_none:2"))


def tools():
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
    asked = {"role": "user", "content": '[{"say": "well"}, {"call_tools": [["look", "{}"]]}]'}
    offered = [{"type": "function", "function": function}]
    answer = client.chat.completions.create(model="puppet", messages=[asked], tools=offered)
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert (message.tool_calls[0].function.name, message.content) == ("look", "well")
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sky"}
    after = client.chat.completions.create(model="puppet", messages=[asked, message, result], tools=offered)
    assert after.choices[0].message.content == "look: sky\n"
    with client.chat.completions.stream(model="puppet", messages=[asked], tools=offered) as stream:
        stream.until_done()
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == "{}"
    made = client.responses.create(model="puppet", input=asked["content"], tools=[{"type": "function", **function}])
    call = made.output[1]
    assert (call.type, call.name) == ("function_call", "look")
    output = [{"type": "function_call_output", "call_id": call.call_id, "output": "sky"}]
    next = client.responses.create(model="puppet", input=output, previous_response_id=made.id)
    assert next.output_text == "look: sky\n"


for check in (models, chat, session, errors, responses, tools):
    check()
    print("ok", check.__name__)
