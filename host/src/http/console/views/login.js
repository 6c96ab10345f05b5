// Signing in: with a key, or with a token for one session.

import { say } from '../api.js'
import { alert, el, field, setText, show } from '../dom.js'
import * as who from '../credentials.js'

const NAME = /^[A-Za-z0-9._@-]{1,128}$/

/** `why` says why somebody who was in is here again; `session` is the one they came for. */
export function login({ why = '', session = '', done }) {
  const key = el('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', required: true, name: 'key' })
  const author = el('input', { type: 'text', autocomplete: 'nickname', spellcheck: 'false', value: 'user', pattern: '[A-Za-z0-9._@\\-]{1,128}', required: true })
  const trouble = el('p.trouble', { hidden: !why }, why)
  const submit = el('button.primary', { type: 'submit' }, 'Sign in')
  const refuse = text => {
    setText(trouble, text)
    show(trouble, true)
    alert(text)
  }
  const form = el('form.card', { 'aria-labelledby': 'sign-in', on: { submit: async event => {
    event.preventDefault()
    if (!NAME.test(author.value)) return refuse('A name has letters, digits and . _ @ -, 128 at most.')
    submit.disabled = true
    setText(submit, 'Looking…')
    try {
      await who.signIn(key.value.trim(), author.value)
      done()
    } catch (error) {
      refuse(error.status ? say(error) : 'The server cannot be reached.')
      key.focus()
      key.select()
    } finally {
      submit.disabled = false
      setText(submit, 'Sign in')
    }
  } } },
  el('h1', { id: 'sign-in' }, 'Sign in'),
  trouble,
  field('Key', key, 'A local server writes one to DATA/default.key. It stays in this tab, and is gone when the tab is closed.'),
  field('Your name', author, 'What others see beside your messages.'),
  submit)

  const id = el('input', { type: 'text', spellcheck: 'false', autocomplete: 'off', required: true, value: session })
  const token = el('input', { type: 'password', spellcheck: 'false', autocomplete: 'off', required: true })
  const other = el('details.card', {}, el('summary', {}, 'I have a token for one session'),
    el('form', { on: { submit: event => {
      event.preventDefault()
      who.enter(id.value.trim(), token.value.trim())
      done(id.value.trim())
    } } }, field('Session', id), field('Token', token), el('button', { type: 'submit' }, 'Open the session')))
  requestAnimationFrame(() => key.focus())
  return el('div.login', {}, el('p.motto', {}, 'Two voices that answer each other, and a session that remembers both.'), form, other)
}
