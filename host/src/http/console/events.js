// A session's events, live. One reader at a time, which comes back with the offset of the last whole event that it handed
// on: so nothing is missed and nothing comes twice, and nobody has to look for repetitions.

import { Refused, mayPass, pause, wait } from './api.js'

/** The server says something every 15 s. Three times that without a word is a dead line. */
const SILENCE_MS = 45_000

/** Takes a stream of text apart, by the rules of the HTML standard, as far as this server uses them. */
export class Parser {
  rest = ''
  data = []
  id = null

  /** The whole events that end in this piece: `{id, data}`. */
  take(text) {
    const events = []
    const lines = (this.rest + text).split('\n')
    this.rest = lines.pop()
    for (const line of lines) {
      const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line.endsWith('\r') ? line.slice(0, -1) : line)
      if (line === '' || line === '\r') {
        if (this.data.length) events.push({ id: this.id, data: this.data.join('\n') })
        this.data = []
      } else if (name === 'data') this.data.push(value)
      else if (name === 'id') this.id = value
    }
    return events
  }
}

/**
 * Follow a session from an offset until the signal says stop, or there is nothing more to follow.
 *
 * - `open(offset, signal)` asks the server; it throws as `ask` does.
 * - `heard(events, offset)` gets whole events, in order, each once.
 * - `standing(state, error)`: `live`, `again` (trying), `over` (it will not come back).
 */
export async function follow({ offset, open, heard, standing, signal, staleAt = () => Infinity }) {
  let attempt = 0
  while (!signal.aborted) {
    const line = new AbortController()
    const hangUp = () => line.abort()
    signal.addEventListener('abort', hangUp)
    let problem = null
    const began = Date.now()
    try {
      const response = await open(offset, line.signal)
      standing('live')
      await read(response, line, staleAt(), events => {
        if (!events.length) return
        attempt = 0
        // One step: what was handed on is what we come back after.
        offset = events.at(-1).id
        heard(events.map(event => JSON.parse(event.data)), offset)
      })
    } catch (error) {
      problem = error
      if (signal.aborted) return
      if (error instanceof Refused && !mayPass(error)) return standing('over', error)
    } finally {
      signal.removeEventListener('abort', hangUp)
      line.abort()
    }
    if (signal.aborted) return
    if (Date.now() - began > SILENCE_MS / 3) attempt = 0
    // A stream that just ends is a server that stops, or a token that has: come back at once, then slower.
    standing('again', problem)
    await waitForNetwork(attempt === 0 && !problem ? 50 : pause(attempt, problem), signal)
    attempt += 1
  }
}

async function read(response, line, staleAt, take) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  const parser = new Parser()
  let silence
  const stale = Number.isFinite(staleAt) ? setTimeout(() => line.abort(), Math.max(1000, staleAt - Date.now())) : 0
  try {
    while (true) {
      clearTimeout(silence)
      silence = setTimeout(() => line.abort(), SILENCE_MS)
      const { done, value } = await reader.read()
      if (done || line.signal.aborted) return
      take(parser.take(value))
    }
  } catch (error) {
    // The line broke, or we hung up. What came whole was handed on.
    if (error instanceof SyntaxError) throw error
  } finally {
    clearTimeout(silence)
    clearTimeout(stale)
  }
}

/** Wait, but not longer than until the network is back or somebody looks at the page again. */
async function waitForNetwork(ms, signal) {
  const sooner = new AbortController()
  const go = () => sooner.abort()
  const seen = () => { if (!document.hidden) go() }
  addEventListener('online', go)
  document.addEventListener('visibilitychange', seen)
  signal.addEventListener('abort', go)
  await wait(ms, sooner.signal)
  removeEventListener('online', go)
  document.removeEventListener('visibilitychange', seen)
  signal.removeEventListener('abort', go)
}
