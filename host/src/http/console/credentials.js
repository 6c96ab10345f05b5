// Who is here: a key, or a token for one session. Kept in sessionStorage, so that a reload does not sign out and closing
// the tab does. For each session that is opened a key mints a token, and everything but the journal goes by that.

import { Refused, ask, json, path } from './api.js'

const PLACE = 'antiphon.console'
/** Tokens are renewed when they have less than this to live. */
const MARGIN_MS = 60_000

let held = read()
let signedOut = () => {}

function read() {
  try { return JSON.parse(sessionStorage.getItem(PLACE)) } catch { return null }
}

function keep(next) {
  held = next
  if (next) sessionStorage.setItem(PLACE, JSON.stringify(next))
  else sessionStorage.removeItem(PLACE)
}

/** What is called when the server does not know us any more. */
export function onSignedOut(heard) {
  signedOut = heard
}

export const isIn = () => held !== null
/** The one session that a token is for; none with a key. */
export const only = () => held?.only ?? null
export const author = () => held?.author ?? null
/** Whether the key has a scope. A token's scopes show when they are used. */
export const may = scope => (held?.only ? scope !== 'inspect' && scope !== 'invoke' : held?.may?.[scope] === true)

/** Sign in with a key: find out what it may do. Each question changes nothing, whatever the answer. */
export async function signIn(key, name) {
  const allowed = async (method, where, body) => {
    try {
      await ask(method, where, { key, body })
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      if (error.status === 401 || error.code === 'tenant_suspended') throw error
      return error.code !== 'insufficient_scope'
    }
    return true
  }
  const nobody = '0'.repeat(64)
  const read = await allowed('GET', '/v1/sessions?limit=1')
  // Scopes are looked at before anything else: what is refused for another reason would have been allowed.
  const [invoke, inspect] = await Promise.all([
    allowed('POST', '/v1/sessions', {}),
    allowed('GET', path('components', nobody)),
  ])
  keep({ key, author: name, may: { read, invoke, inspect }, tokens: {}, only: null })
  return { read, invoke, inspect }
}

/** Come in with a token that somebody else made. */
export function enter(session, token) {
  keep({ key: null, author: null, may: {}, tokens: { [session]: { token, given: true } }, only: session })
}

/** Leave: tokens that were made here are revoked, as far as the server can be reached. */
export async function signOut() {
  const leaving = held
  keep(null)
  // Drafts are for whoever wrote them. An error keeps them, leaving does not.
  for (const name of Object.keys(sessionStorage)) if (name.startsWith(PLACE)) sessionStorage.removeItem(name)
  if (!leaving?.key) return
  const revoked = Object.entries(leaving.tokens).map(([session, token]) =>
    ask('DELETE', path('sessions', session, 'tokens', token.id), { key: leaving.key, signal: AbortSignal.timeout(3000) }))
  await Promise.allSettled(revoked)
}

/** What to show the server for a session: a token; the key where it may not make one. */
async function bearer(session) {
  const token = held?.tokens[session]
  if (token?.given) return token.token
  if (token && Date.parse(token.expires_at) - Date.now() > MARGIN_MS) return token.token
  if (!held?.may.invoke) return held?.key
  return mint(session)
}

const minting = new Map()

function mint(session) {
  if (!minting.has(session)) {
    const made = json('POST', path('sessions', session, 'tokens'), { key: held.key, body: { author: held.author } })
      .then(token => {
        keep({ ...held, tokens: { ...held.tokens, [session]: token } })
        return token.token
      })
      .finally(() => minting.delete(session))
    minting.set(session, made)
  }
  return minting.get(session)
}

/** When the token of a session should be replaced, in milliseconds since 1970; never for one that was given. */
export function staleAt(session) {
  const token = held?.tokens[session]
  return token?.expires_at ? Date.parse(token.expires_at) - MARGIN_MS : Infinity
}

/** A request about a session, by its token. One that is not accepted any more is replaced once. */
export async function asked(session, method, where, options = {}) {
  return known(async () => {
    try {
      return await ask(method, where, { ...options, key: await bearer(session) })
    } catch (error) {
      const isStale = error.status === 401 && held?.may.invoke && held.tokens[session]
      if (!isStale) throw error
      return ask(method, where, { ...options, key: await mint(session) })
    }
  })
}

export async function about(session, method, where, options) {
  return (await asked(session, method, where, options)).json()
}

/** A request by the key itself. */
export async function byKey(method, where, options = {}) {
  return known(() => json(method, where, { ...options, key: held?.key }))
}

export async function textByKey(where) {
  return known(async () => (await ask('GET', where, { key: held?.key })).text())
}

/** Whoever is not accepted has to sign in again. */
async function known(request) {
  const before = held
  try {
    return await request()
  } catch (error) {
    if (error.status === 401 && held && held.key === before?.key) {
      keep(null)
      signedOut(error)
    }
    throw error
  }
}
