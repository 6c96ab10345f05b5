// Requests to the server, and what went wrong with them in words.

/** The server answered, and refused. */
export class Refused extends Error {
  constructor(status, body, retryAfter) {
    super(body?.error?.message ?? `The server answered ${status}.`)
    this.status = status
    this.code = body?.error?.code ?? ''
    this.body = body
    this.retryAfter = retryAfter
  }
}

/** No answer came: no network, or no server. */
export class Unreachable extends Error {
  constructor() {
    super('The server cannot be reached.')
  }
}

/** One request; answers the response if its status is good, else throws. */
export async function ask(method, path, { key, body, headers = {}, signal } = {}) {
  const head = { ...headers }
  if (key) head.authorization = `Bearer ${key}`
  if (body !== undefined) head['content-type'] = 'application/json'
  let response
  try {
    response = await fetch(path, {
      method, headers: head, signal, cache: 'no-store', credentials: 'omit',
      body: body === undefined ? undefined : JSON.stringify(body),
    })
  } catch (error) {
    if (signal?.aborted) throw error
    throw new Unreachable()
  }
  if (response.ok) return response
  const text = await response.text().catch(() => '')
  let json = null
  try { json = JSON.parse(text) } catch { /* A proxy's page, or nothing. */ }
  // Without a body of ours it was not the server: a proxy says that nobody is there.
  if (!json?.error && response.status >= 502) throw new Unreachable()
  throw new Refused(response.status, json, seconds(response.headers.get('retry-after')))
}

export async function json(method, path, options) {
  const response = await ask(method, path, options)
  try {
    return response.status === 204 ? null : await response.json()
  } catch {
    throw new Unreachable()
  }
}

function seconds(header) {
  const value = Number(header)
  return header && Number.isFinite(value) ? Math.max(0, value) : null
}

/** Whether the same request may do better later, and nothing else would help. */
export function mayPass(error) {
  if (error instanceof Unreachable) return true
  if (!(error instanceof Refused)) return false
  return (error.status === 429 && error.retryAfter !== null) || error.status === 408 ||
    (error.status >= 500 && error.code !== 'session_damaged')
}

/** How long until the next attempt: what the server asks for, else twice as long each time, and never in step. */
export function pause(attempt, error) {
  if (error?.retryAfter) return error.retryAfter * 1000
  return Math.min(8000, 250 * 2 ** attempt) * (0.75 + Math.random() / 2)
}

/** An error for people. */
export function say(error) {
  if (error instanceof Unreachable) return 'The server cannot be reached. Trying again.'
  if (!(error instanceof Refused)) return `Something broke in this page: ${error?.message ?? error}`
  switch (error.code) {
    case 'invalid_key': return 'The key or token is not accepted: it is wrong, revoked or has expired.'
    case 'session_gone': return 'This session is gone: it was deleted or has expired.'
    case 'session_not_found': return 'There is no such session, or it is not for this key.'
    case 'idle': return 'Nothing to interrupt: the turn had already ended.'
    case 'draining': return 'The server is stopping. Trying again.'
    case 'store_latched': return 'The server takes no writes: its disk failed or is full. Reading goes on.'
    default:
  }
  const later = error.retryAfter === null ? '' : ` Trying again in ${error.retryAfter} s.`
  const message = error.message.replace(/[.\s]+$/, '')
  return `${message.charAt(0).toUpperCase()}${message.slice(1)}.${later}`
}

export const wait = (ms, signal) => new Promise(resolve => {
  if (signal?.aborted) return resolve()
  const done = () => { clearTimeout(timer); signal?.removeEventListener('abort', done); resolve() }
  const timer = setTimeout(done, ms)
  signal?.addEventListener('abort', done)
})

export const path = (...parts) => `/v1/${parts.map(encodeURIComponent).join('/')}`
