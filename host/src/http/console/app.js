// The page: who is in, where they are, and what is shown there. A place is `#session=ID&view=journal&at=7`.

import { say } from './api.js'
import * as who from './credentials.js'
import { alert, button, el, setText } from './dom.js'
import { List } from './views/list.js'
import { login } from './views/login.js'
import { Open } from './views/open.js'

const THEMES = ['auto', 'light', 'dark']

const main = document.getElementById('content')
const body = document.getElementById('body')
let list = null
let open = null

function place() {
  return new URLSearchParams(location.hash.slice(1))
}

/** A token in the address opens its session, and leaves the address before anything else happens. */
function takeToken() {
  const at = place()
  const [session, token] = [at.get('session'), at.get('token')]
  if (!token) return
  at.delete('token')
  history.replaceState(null, '', `#${at}`)
  if (session) who.enter(session, token)
}

function go(session, about = {}) {
  const at = new URLSearchParams()
  if (session) at.set('session', session)
  for (const [name, value] of Object.entries(about)) if (value) at.set(name, value)
  location.hash = String(at)
}

function route() {
  takeToken()
  if (!who.isIn()) return showLogin()
  const at = place()
  const session = who.only() ?? at.get('session')
  if (!who.only() && !list) {
    list = new List({ open: id => go(id) })
    body.prepend(list.node)
    list.load()
  }
  body.classList.toggle('alone', Boolean(who.only()))
  body.classList.toggle('inside', Boolean(session))
  const view = at.get('view') ?? 'conversation'
  if (open && open.id === session) return open.choose(view, at.get('at'))
  leave()
  if (!session) {
    document.title = 'Sessions · Antiphon'
    list?.mark(null)
    return main.replaceChildren(el('div.nothing', {}, el('h1', {}, 'Antiphon'), el('p', {}, 'Choose a session, or open a new one.')))
  }
  document.title = `${session} · Antiphon`
  open = new Open(session, { view, at: at.get('at'), active: time => list?.active(session, time),
    go: view => go(session, view === 'conversation' ? {} : { view }) })
  main.replaceChildren(open.node)
  list?.mark(session)
  // Who came by keyboard goes on where the new content begins.
  if (document.activeElement === document.body || list?.node.contains(document.activeElement)) open.node.querySelector('h1').focus()
}

function leave() {
  open?.close()
  open = null
}

function showLogin(why = '') {
  leave()
  list?.node.remove()
  list = null
  body.classList.remove('alone', 'inside')
  document.title = 'Sign in · Antiphon'
  drawTop()
  main.replaceChildren(login({ why, session: place().get('session') ?? '', done: session => {
    drawTop()
    if (session && place().get('session') !== session) go(session)
    else route()
  } }))
}

who.onSignedOut(error => {
  const text = `${say(error)} Sign in again; what you wrote is kept.`
  showLogin(text)
  alert(text)
})

async function signOut() {
  const gone = who.signOut()
  showLogin('You are signed out.')
  history.replaceState(null, '', location.pathname)
  await gone
}

function theme() {
  const wanted = localStorage.getItem('antiphon.console.theme')
  return THEMES.includes(wanted) ? wanted : 'auto'
}

function drawTop() {
  document.documentElement.dataset.theme = theme()
  const change = button(`Theme: ${theme()}`, () => {
    localStorage.setItem('antiphon.console.theme', THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length])
    document.documentElement.dataset.theme = theme()
    setText(change, `Theme: ${theme()}`)
    // What is painted and not styled has to be painted again.
    dispatchEvent(new Event('repaint'))
  }, { class: 'quiet' })
  document.getElementById('top').replaceChildren(
    el('a.mark', { href: '#', 'aria-label': 'Antiphon, all sessions' }, el('img', { src: '/console/icon.svg', alt: '', width: 22, height: 22 }), 'Antiphon'),
    el('div.row', {}, change, ...(who.isIn() ? [button('Sign out', signOut, { class: 'quiet' })] : [])))
}

addEventListener('hashchange', route)
drawTop()
takeToken()
drawTop()
route()
