// OpenAI's client for JavaScript and the AI SDK against a server of this tree: see check.py.

import assert from 'node:assert/strict'
import OpenAI from 'openai'
import { generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai'
import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'

const baseURL = process.env.URL + '/v1'
const apiKey = process.env.KEY
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 })
const compatible = createOpenAICompatible({ name: 'antiphon', baseURL, apiKey, includeUsage: true })
const responses = createOpenAI({ baseURL, apiKey })
const messages = [{ role: 'user', content: 'hello' }]
const script = '[{"say": "one "}, {"commit": ["x", "y"]}, {"say": "two"}]'
const failing = '[{"say": "shown"}, {"fail": "no idea"}]'

const checks = {
  async openai() {
    const models = []
    for await (const model of client.models.list()) models.push(model.id)
    assert.deepEqual(models, ['echo', 'puppet'])
    const answer = await client.chat.completions.create({ model: 'echo', messages })
    assert.equal(answer.choices[0].message.content, 'hello')
    let text = ''
    for await (const chunk of await client.chat.completions.create({ model: 'echo', messages, stream: true }))
      text += chunk.choices[0].delta.content ?? ''
    assert.equal(text, 'hello')
    await assert.rejects(client.chat.completions.create({ model: 'none', messages }), OpenAI.NotFoundError)
    const events = []
    for await (const event of await client.responses.create({ model: 'puppet', input: script, stream: true }))
      events.push(event)
    const id = events[0].response.id
    assert.equal((await client.responses.retrieve(id)).output_text, 'one two')
    const cut = events[4].sequence_number
    const rest = []
    for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: cut })) rest.push(event)
    assert.deepEqual(rest, events.slice(5))
  },

  async chatOfTheAiSdk() {
    const model = compatible('echo')
    const { text, finishReason, usage } = await generateText({ model, system: 'be brief', prompt: 'hello' })
    assert.deepEqual([text, finishReason, usage.totalTokens], ['hello', 'stop', 0])
    const parts = []
    const streamed = streamText({ model: compatible('puppet'), prompt: script })
    for await (const part of streamed.textStream) parts.push(part)
    assert.deepEqual(parts, ['one ', 'two'])
    assert.equal(await streamed.finishReason, 'stop')
    const broken = streamText({ model: compatible('puppet'), prompt: failing, onError() {} })
    const seen = []
    for await (const part of broken.fullStream)
      if (part.type === 'text-delta' || part.type === 'error') seen.push(part.type)
    assert.deepEqual(seen, ['text-delta', 'error'])
    await assert.rejects(generateText({ model: compatible('none'), prompt: 'hello' }), /there is no model/)
  },

  // The SDK calls the tool, and asks again with what it answered.
  async toolsOfTheAiSdk() {
    const asked = '[{"say": "well"}, {"call_tools": [["look", "{\\"where\\": \\"up\\"}"]]}]'
    const look = tool({
      description: 'Looks somewhere.',
      inputSchema: jsonSchema({ type: 'object', properties: { where: { type: 'string' } } }),
      execute: async ({ where }) => where + ' is blue',
    })
    for (const model of [compatible('puppet'), responses('puppet')]) {
      const options = { model, prompt: asked, tools: { look }, stopWhen: stepCountIs(3) }
      const { text, steps } = await generateText(options)
      assert.deepEqual([text, steps.length], ['look: up is blue\n', 2])
      const streamed = streamText(options)
      const parts = []
      for await (const part of streamed.textStream) parts.push(part)
      assert.deepEqual(parts, ['well', 'look: up is blue\n'])
    }
  },

  async responsesOfTheAiSdk() {
    const { text, finishReason, providerMetadata } = await generateText({ model: responses('echo'), prompt: 'hello' })
    assert.deepEqual([text, finishReason], ['hello', 'stop'])
    const previousResponseId = providerMetadata.openai.responseId
    const after = await generateText({
      model: responses('echo'),
      prompt: 'and on',
      providerOptions: { openai: { previousResponseId } },
    })
    assert.equal(after.text, 'and on')
    const streamed = streamText({ model: responses('puppet'), prompt: script })
    const parts = []
    for await (const part of streamed.textStream) parts.push(part)
    assert.deepEqual(parts, ['one ', 'two'])
    assert.equal(await streamed.finishReason, 'stop')
  },
}

for (const [name, check] of Object.entries(checks)) {
  await check()
  console.log('ok', name)
}
